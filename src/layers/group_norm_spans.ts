/**
 * @file GroupNorm by spans, for CPU adapters: one invocation for the least run of quads that holds whole groups makes
 * their affine maps from x, and on small maps the result too. So it is two dispatches, or one, where segments take three;
 * the gradient alike. Invocations are few: for a GPU too few.
 */
import spansShader from '../../shaders/group_norm/spans.wgsl';
import spansBackward from '../../shaders/group_norm/spans_backward.wgsl';
import { quads } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import {
  COSTS,
  EMBEDDING_MODES,
  embeddingSizes,
  type GroupNormCall,
  type GroupNormWay,
  spanQuads,
} from './group_norm_call.ts';
import { apply, applyCost, applyGradient } from './group_norm_segments.ts';

/** SwiftShader runs four invocations at once; smaller workgroups leave work for all cores. */
const THREADS = 4;

/** With so few reads an invocation, making the result there takes less time than one more dispatch. */
const SMALL_SPAN_READS = 2048;

/** Quads that an invocation reads of x. */
const spanReads = (call: GroupNormCall): number => spanQuads(call) * call.x.shape.h * call.x.shape.w;

function layout(call: GroupNormCall) {
  const { n, h, w, c } = call.x.shape;
  const SPAN_QUADS = spanQuads(call);
  const invocations = n * Math.ceil(quads(c) / SPAN_QUADS);
  return {
    sizes: { IMAGES: n, PIXELS: h * w, CHANNELS: c, GROUPS: call.groups, SPAN_QUADS },
    invocations,
    grid: lineGrid(invocations, THREADS),
    small: spanReads(call) <= SMALL_SPAN_READS,
  };
}

export const spans: GroupNormWay = {
  name: 'spans',
  note: 'few dispatches: for CPU adapters',
  embeddingGradient: false,
  fits: () => true,

  cost({ adapter }, call) {
    const { lanes, load, dispatch } = COSTS[adapter];
    const { invocations, small } = layout(call);
    const reads = Math.ceil(invocations / lanes) * spanReads(call) * load;
    return small ? dispatch + 4 * reads : 2 * dispatch + reads + applyCost(adapter, call);
  },

  forward(graph, call) {
    const { silu, eps, x, y, gamma, beta, embedding, coefficients } = call;
    const { sizes, grid, small } = layout(call);
    const statistics = kernelCall(spansShader, {
      bind: { x, gamma, beta, embedding: embedding?.tensor ?? null, coefficients, y: small ? y : null },
      sizes: {
        ...sizes,
        ...embeddingSizes(call),
        EPS: eps,
        EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0,
      },
      switches: { SILU: silu, APPLY: small, THREADS },
      tiles: {},
      grid,
      cost: { flops: (small ? 3 : 1) * x.bytes, bytes: (small ? 3 : 1) * x.bytes },
    });
    return small ? [statistics] : [statistics, apply(graph, call)];
  },

  backward(graph, call) {
    const { silu, name, x, coefficients, dy, dx, residual } = call;
    const { sizes, grid, small } = layout(call);
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    const sums = kernelCall(spansBackward, {
      bind: { dy, x, coefficients, residual: small ? residual : null, terms, dx: small || silu ? dx : null },
      sizes: { ...sizes, RESIDUAL: Number(residual !== null) },
      switches: { SILU: silu, APPLY: small, THREADS },
      grid,
      cost: { flops: (small ? 7 : 3) * x.bytes, bytes: (small ? 5 : 2) * x.bytes },
    });
    return small ? [sums] : [sums, applyGradient(graph, call, terms, silu)];
  },
};
