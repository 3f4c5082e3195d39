/**
 * @file Sums over the invocations of a workgroup, by subgroup operations where the device has them.
 *
 * A kernel that needs such a sum has this function, a tree in workgroup memory that every device can run:
 *
 *     fn workgroup_sum(thread: u32, value: vec4f) -> vec4f      thread: local_invocation_index
 *
 * with `const THREADS` for the workgroup's size and `var<workgroup> partial: array<vec4f, THREADS>`. For a call with
 * `subgroups` this module exchanges its body before compilation: two barriers, where the tree takes log2(THREADS) + 2.
 */

/** Barriers of a sum over so many invocations. */
export const barriersOf = (threads: number, subgroups: boolean): number => (subgroups ? 2 : 2 + Math.log2(threads));

const TREE = /fn workgroup_sum\(thread: u32, value: vec4f\) -> vec4f \{\n[\s\S]*?\n\}/;

// Which invocations make up a subgroup, and how many, is the device's choice: so each leaves its sum at its first one's
// place, and zeros elsewhere, and all of them add up all places.
const BY_SUBGROUPS = `fn workgroup_sum(thread: u32, value: vec4f) -> vec4f {
  let lane = subgroupExclusiveAdd(1u);
  let lanes = subgroupAdd(1u);
  let own = subgroupAdd(value);
  partial[thread] = select(vec4f(), own, lane == 0u);
  workgroupBarrier();
  var sum = vec4f();
  for (var i = lane; i < THREADS; i += lanes) {
    sum += partial[i];
  }
  sum = subgroupAdd(sum);
  workgroupBarrier();
  return sum;
}`;

/**
 * The text of a kernel that adds by subgroup operations. The device needs the feature `subgroups`.
 *
 * @throws Error if the kernel has no such sum
 */
export function sumBySubgroups(source: string): string {
  if (!TREE.test(source))
    throw new Error('this kernel has no function workgroup_sum(thread: u32, value: vec4f) -> vec4f');
  return `enable subgroups; ${source.replace(TREE, BY_SUBGROUPS)}`;
}
