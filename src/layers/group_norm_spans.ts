/**
 * @file GroupNorm by spans, for CPU adapters: one invocation for the least run of quads that holds whole groups makes
 * their affine maps from x, and on small maps the result too. So it is two dispatches, or one, where segments take three;
 * the gradient alike. Invocations are few: for a GPU too few.
 */
import spansShader from '../../shaders/group_norm/spans.wgsl';
import spansBackward from '../../shaders/group_norm/spans_backward.wgsl';
import { quads } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import type { GroupNormCall, GroupNormWay } from './group_norm.ts';
import { apply, applyGradient, EMBEDDING_MODES, embeddingSizes } from './group_norm_segments.ts';

/** SwiftShader runs four invocations at once; smaller workgroups leave work for all cores. */
const THREADS = 4;

/** With so few reads an invocation, making the result there takes less time than one more dispatch. */
const SMALL_SPAN_READS = 256;

/** Quads of the least run that holds whole groups: lcm(4, channels of a group) / 4. */
function spanQuads({ spec }: GroupNormCall): number {
  const size = spec.channels / spec.groups;
  return size / (size % 4 === 0 ? 4 : size % 2 === 0 ? 2 : 1);
}

/** Quads that an invocation reads of x. */
export const spanReads = (call: GroupNormCall): number => spanQuads(call) * call.x.shape.h * call.x.shape.w;

function layout(call: GroupNormCall) {
  const { n, h, w, c } = call.x.shape;
  const SPAN_QUADS = spanQuads(call);
  return {
    sizes: { IMAGES: n, PIXELS: h * w, CHANNELS: c, GROUPS: call.spec.groups, SPAN_QUADS },
    grid: lineGrid(n * Math.ceil(quads(c) / SPAN_QUADS), THREADS),
    small: spanReads(call) <= SMALL_SPAN_READS,
  };
}

export const spans: GroupNormWay = {
  forward(graph, call) {
    const { spec, x, y, gamma, beta, embedding, coefficients } = call;
    const { sizes, grid, small } = layout(call);
    const statistics = kernelCall(spansShader, {
      bind: { x, gamma, beta, embedding: embedding?.tensor ?? null, coefficients, y: small ? y : null },
      sizes: { ...sizes, ...embeddingSizes(call), EPS: spec.eps },
      switches: {
        EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0,
        SILU: spec.silu,
        APPLY: small,
        THREADS,
      },
      tiles: {},
      grid,
      cost: { flops: (small ? 3 : 1) * x.bytes, bytes: (small ? 3 : 1) * x.bytes },
    });
    return small ? [statistics] : [statistics, apply(graph, call)];
  },

  backward(graph, call, gradient) {
    const { spec, name, x, coefficients } = call;
    const { dy, dx, residual } = gradient;
    const { sizes, grid, small } = layout(call);
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    const sums = kernelCall(spansBackward, {
      bind: { dy, x, coefficients, residual: small ? residual : null, terms, dx: small || spec.silu ? dx : null },
      sizes: { ...sizes, RESIDUAL: Number(residual !== null) },
      switches: { SILU: spec.silu, APPLY: small, THREADS },
      grid,
      cost: { flops: (small ? 7 : 3) * x.bytes, bytes: (small ? 5 : 2) * x.bytes },
    });
    return small ? [sums] : [sums, applyGradient(graph, call, gradient, terms, spec.silu)];
  },
};
