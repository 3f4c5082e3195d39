/**
 * @file Lets any kernel read a concatenation that is never made, from its two parts.
 *
 * A kernel finds quad q of pixel p of an activation at p * QUADS + q. So what it reads through a binding `x` can be taken from two
 * bindings instead: `x[at]` is exchanged for a call of a function that says in which part the quad lies. No shader and no layer
 * knows of it. It takes a division and a branch a load, for a tensor that is neither written nor read again: what a GPU should gain by
 * (counted, not timed there). A CPU adapter computes both sides of a branch, and copies the parts (docs/performance.md).
 */
import type { Target } from './graph.ts';
import { type Activation, type Concatenated, quads, type Resource } from './resources.ts';
import type { KernelCall, Shader } from './shader.ts';
import { indices } from './shader_text.ts';

/** Storage bindings that every device allows a kernel (WebGPU's default limit). */
const MAX_STORAGE_BINDINGS = 8;

/** A call that reads the parts of its concatenations where it can, on adapters where that pays. */
export function readingParts(call: KernelCall, { adapter }: Target): KernelCall {
  if (adapter !== 'gpu') return call;
  let result = call;
  for (const [name, resource] of Object.entries(call.bind)) {
    const parts = partsOf(resource);
    if (!parts || !readsQuads(result.shader, name)) continue;
    const [first, second] = parts;
    const { whole, more } = sizesOf(name);
    const moreQuads = quads(second.shape.c);
    result = {
      ...result,
      shader: joined(result.shader, name),
      bind: { ...result.bind, [name]: first, [moreOf(name)]: second },
      sizes: { ...result.sizes, [whole]: quads(first.shape.c) + moreQuads, [more]: moreQuads },
    };
  }
  return result;
}

/** The parts of a resource that is a concatenation. */
function partsOf(resource: Resource): Concatenated['parts'] | null {
  const { origin } = resource as Partial<Activation>;
  return origin?.kind === 'concat' ? origin.parts : null;
}

/** Whether a binding is only read, quad by quad, and there is room for another one. */
const readsQuads = ({ bindings, source }: Shader, name: string): boolean =>
  bindings.filter(({ access }) => access !== 'uniform').length < MAX_STORAGE_BINDINGS &&
  new RegExp(`var<storage,\\s*read>\\s*${name}\\s*:\\s*array<vec4f>`).test(source) &&
  !new RegExp(`&${name}\\b`).test(source);

const moreOf = (name: string): string => `${name}_more`;

/** Sizes of the exchanged text: quads of a pixel in all, and of the second part. */
const sizesOf = (name: string) => ({
  whole: `${name.toUpperCase()}_WHOLE_QUADS`,
  more: `${name.toUpperCase()}_MORE_QUADS`,
});

const made = new WeakMap<Shader, Map<string, Shader>>();

/** The shader with reads of binding `name` exchanged: the same one each time, and by another name than the plain one's: the file's, a space, the change. */
export function joined(shader: Shader, name: string): Shader {
  const known = made.get(shader) ?? new Map<string, Shader>();
  made.set(shader, known);
  const before = known.get(name);
  if (before) return before;
  const { whole, more } = sizesOf(name);
  const index = shader.bindings.length;
  const result: Shader = {
    ...shader,
    name: `${shader.name} (${name} in two parts)`,
    source: `${callsForReads(shader.source, name)}
override ${whole}: u32;
override ${more}: u32;
@group(0) @binding(${index}) var<storage, read> ${moreOf(name)}: array<vec4f>;

fn ${readerOf(name)}(at: u32) -> vec4f {
  let pixel = at / ${whole};
  let quad = at - pixel * ${whole};
  let own = ${whole} - ${more};
  if (quad < own) {
    return ${name}[pixel * own + quad];
  }
  return ${moreOf(name)}[pixel * ${more} + quad - own];
}
`,
    bindings: [...shader.bindings, { name: moreOf(name), index, access: 'read' }],
    sizes: { ...shader.sizes, [whole]: 'u32', [more]: 'u32' },
  };
  known.set(name, result);
  return result;
}

const readerOf = (name: string): string => `quad_of_${name}`;

/** `x[i]` becomes `quad_of_x(i)`. From the last on, so that those in the index of another come first. */
function callsForReads(source: string, name: string): string {
  let text = source;
  for (let last = indices(text, name).at(-1); last; last = indices(text, name).at(-1)) {
    text = `${text.slice(0, last.from)}${readerOf(name)}(${last.index})${text.slice(last.to)}`;
  }
  return text;
}
