/**
 * @file GroupNorm by workgroups, for GPUs: a workgroup for the least run of quads that holds whole groups makes their affine
 * maps from x, and on small maps the result too. Two dispatches, or one, where segments take three; the gradient alike.
 */
import workgroupShader from '../../shaders/group_norm/workgroup.wgsl';
import workgroupBackward from '../../shaders/group_norm/workgroup_backward.wgsl';
import { quads } from '../runtime/resources.ts';
import { type Grid, kernelCall } from '../runtime/shader.ts';
import {
  COSTS,
  EMBEDDING_MODES,
  embeddingSizes,
  type GroupNormCall,
  type GroupNormWay,
  spanQuads,
} from './group_norm_call.ts';
import { apply, applyCost, applyGradient } from './group_norm_segments.ts';

/** THREADS and MAX_SPAN of the shaders. */
const THREADS = 128;
const MAX_SPAN = 16;

/** With so few quads a workgroup, making the result there takes less time than one more dispatch. */
const SMALL_SPAN = 4096;

function layout(call: GroupNormCall) {
  const { n, h, w, c } = call.x.shape;
  const SPAN_QUADS = spanQuads(call);
  const spans = Math.ceil(quads(c) / SPAN_QUADS);
  return {
    sizes: { PIXELS: h * w, CHANNELS: c, GROUPS: call.groups, SPAN_QUADS },
    grid: [spans, n, 1] as Grid,
    workgroups: spans * n,
    small: h * w * SPAN_QUADS <= SMALL_SPAN,
  };
}

export const workgroup: GroupNormWay = {
  name: 'workgroup',
  note: 'few dispatches, with barriers: for GPUs',
  embeddingGradient: false,

  fits: (call) => spanQuads(call) <= MAX_SPAN,

  cost({ adapter }, call) {
    const { lanes, load, dispatch, barrier } = COSTS[adapter];
    const { workgroups, small, sizes } = layout(call);
    const rounds = Math.max(1, (workgroups * THREADS) / lanes);
    const reads = sizes.SPAN_QUADS * Math.ceil(sizes.PIXELS / THREADS) * load;
    const waits = 2 * sizes.SPAN_QUADS * (2 + Math.log2(THREADS)) * barrier;
    const statistics = rounds * (2 * reads + waits);
    return small ? dispatch + statistics + 2 * rounds * reads : 2 * dispatch + statistics + applyCost(adapter, call);
  },

  forward(graph, call) {
    const { silu, eps, x, y, gamma, beta, embedding, coefficients } = call;
    const { sizes, grid, small } = layout(call);
    const statistics = kernelCall(workgroupShader, {
      bind: { x, gamma, beta, embedding: embedding?.tensor ?? null, coefficients, y: small ? y : null },
      sizes: { ...sizes, ...embeddingSizes(call), EPS: eps },
      switches: { EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0, SILU: silu, APPLY: small },
      grid,
      cost: { flops: (small ? 3 : 1) * x.bytes, bytes: (small ? 4 : 2) * x.bytes },
    });
    return small ? [statistics] : [statistics, apply(graph, call)];
  },

  backward(graph, call) {
    const { silu, name, x, coefficients, dy, dx, residual } = call;
    const { sizes, grid, small } = layout(call);
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    const sums = kernelCall(workgroupBackward, {
      bind: { dy, x, coefficients, residual: small ? residual : null, terms, dx: small ? dx : null },
      sizes: { ...sizes, RESIDUAL: Number(residual !== null) },
      switches: { SILU: silu, APPLY: small },
      grid,
      cost: { flops: (small ? 7 : 3) * x.bytes, bytes: (small ? 5 : 2) * x.bytes },
    });
    return small ? [sums] : [sums, applyGradient(graph, call, terms, false)];
  },
};
