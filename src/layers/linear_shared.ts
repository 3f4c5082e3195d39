/**
 * @file Matrix product with few rows in one dispatch: a workgroup shares the sum of an output quad, through workgroup memory or
 * by subgroup operations. For GPUs, where a second dispatch (linear_lanes.ts) costs more than barriers do.
 */
import linearShared from '../../shaders/linear/shared.wgsl';
import { hasFeature } from '../runtime/graph.ts';
import { pixels, quads } from '../runtime/resources.ts';
import { kernelCall } from '../runtime/shader.ts';
import type { Variant } from '../runtime/variants.ts';
import { barriersOf } from '../runtime/workgroup_sums.ts';
import { MOST_ROWS } from './linear_lanes.ts';
import { type ProductCall, wholeProduct } from './product_call.ts';
import { GPU_LANES, loadCost } from './register_tiles.ts';

/** THREADS of the shader. */
const THREADS = 64;

/** Rows of a workgroup. */
const RUNS = [1, 4];

/** What a barrier costs an invocation, in multiply-adds: 2.5 µs a workgroup on SwiftShader, estimated for GPUs. */
const BARRIER_COST = { cpu: 300, gpu: 8 } as const;

export const shared: readonly Variant<ProductCall>[] = RUNS.flatMap((run) => [variant(run, false), variant(run, true)]);

function variant(run: number, subgroups: boolean): Variant<ProductCall> {
  return {
    name: `${subgroups ? 'subgroups' : 'shared'} ${run}`,
    accuracy: () => 'float32',
    note: `a sum shared by a workgroup${subgroups ? ', by subgroup operations' : ''}: for few rows on GPUs`,

    fits: (target, { x }) =>
      pixels(x.shape) <= MOST_ROWS && run <= 2 * pixels(x.shape) && (!subgroups || hasFeature(target, 'subgroups')),

    cost: (target, { x, y }) => {
      const invocations = Math.ceil(pixels(x.shape) / run) * quads(y.shape.c) * THREADS;
      const loads = Math.ceil(quads(x.shape.c) / THREADS) * (loadCost(target) * (4 + run) + 4 * run);
      const waits = run * barriersOf(THREADS, subgroups) * BARRIER_COST[target.adapter];
      const lanes = target.adapter === 'gpu' ? Math.max(invocations, GPU_LANES) : invocations;
      return lanes * (loads + waits);
    },

    lower: (_graph, call) => [
      kernelCall(linearShared, {
        ...wholeProduct(call),
        tiles: { RUN: run },
        subgroups,
        grid: [quads(call.y.shape.c), Math.ceil(pixels(call.x.shape) / run), 1],
      }),
    ],
  };
}
