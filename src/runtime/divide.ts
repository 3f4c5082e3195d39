/**
 * @file Divides a dispatch that would take long by itself into parts: boxes of its grid, each a dispatch of its own.
 *
 * Workgroups of one dispatch cannot see each other's work, so any division computes the same bits. A part's kernel sees
 * the indices of the whole grid (pipelines.ts). The division is made with the plan, from what the call should cost; when
 * parts are submitted is up to submit.ts, which measures.
 */
import type { Cost, Grid, KernelCall } from './shader.ts';

/** What a part may be. */
export interface DivisionRule {
  /** Floating-point operations, and bytes of storage traffic, each of which makes a part full by itself. */
  readonly flops: number;
  readonly bytes: number;
  /** Parts along x hold a multiple of so many workgroups, so that every processor has work in each. */
  readonly groups: number;
}

/** Workgroups from `first` on, `count` of them in each dimension. */
export interface Part {
  readonly first: Grid;
  readonly count: Grid;
  readonly cost: Cost;
}

/**
 * A software adapter: 100 ms at 0.5 GFLOP/s and 0.25 GB/s a processor, a third of what the kernels reach on a machine
 * with other work, so that a part is short wherever it runs.
 *
 * @param processors of the machine
 */
export const cpuDivision = (processors: number): DivisionRule => ({
  flops: 5e7 * processors,
  bytes: 2.5e7 * processors,
  groups: processors,
});

/** A GPU: 100 ms at 0.5 TFLOP/s and 50 GB/s, less than small ones have. It meets only what is huge. */
export const GPU_DIVISION: DivisionRule = { flops: 5e10, bytes: 5e9, groups: 1024 };

/** The parts of a call, in the order of its workgroups; one, the whole, if it is not too large. */
export function divide({ grid, cost, constantSizes, sizes }: KernelCall, rule: DivisionRule): readonly Part[] {
  const [x, y, z] = grid;
  const groups = x * y * z;
  const work = cost.flops / rule.flops + cost.bytes / rule.bytes;
  // Where a part begins is a field of the block of sizes, so a kernel without one stays whole.
  if (work <= 1 || constantSizes || Object.keys(sizes).length === 0) return [{ first: [0, 0, 0], count: grid, cost }];
  const run = Math.ceil(groups / work / rule.groups) * rule.groups;
  const [wide, high, deep] = [cuts(x, run), cuts(y, run / x), cuts(z, run / (x * y))];
  return deep.flatMap(([z0, nz]) =>
    high.flatMap(([y0, ny]) =>
      wide.map(([x0, nx]): Part => {
        const share = (nx * ny * nz) / groups;
        const own = { flops: cost.flops * share, bytes: cost.bytes * share };
        return { first: [x0, y0, z0], count: [nx, ny, nz], cost: own };
      }),
    ),
  );
}

/** Ranges (first, count) of about equal length, at most `longest` and at least 1, that make up 0 to `length`. */
function cuts(length: number, longest: number): readonly (readonly [number, number])[] {
  const step = Math.ceil(length / Math.ceil(length / Math.max(1, Math.floor(longest))));
  return Array.from(
    { length: Math.ceil(length / step) },
    (_, i) => [i * step, Math.min(step, length - i * step)] as const,
  );
}
