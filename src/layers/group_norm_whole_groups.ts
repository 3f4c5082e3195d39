/**
 * @file What GroupNorm by spans and by workgroups have in common: a span, the least run of quads that holds whole groups, is
 * the work of one invocation or one workgroup, which makes the affine maps of its channels, and on small maps the result
 * too. So it is two dispatches, or one, where segments take three; the gradient alike.
 */
import type spansShader from '../../shaders/group_norm/spans.wgsl';
import type spansBackward from '../../shaders/group_norm/spans_backward.wgsl';
import { quads } from '../runtime/resources.ts';
import { type Grid, kernelCall } from '../runtime/shader.ts';
import { EMBEDDING_MODES, embeddingSizes, type GroupNormCall, type GroupNormWay } from './group_norm_call.ts';
import { apply, applyGradient } from './group_norm_segments.ts';

/** Quads of the least run that holds whole groups: lcm(4, channels of a group) / 4. */
export function spanQuads({ x, groups }: GroupNormCall): number {
  const size = x.shape.c / groups;
  return size / (size % 4 === 0 ? 4 : size % 2 === 0 ? 2 : 1);
}

/** Spans of an image. */
export const spansOf = (call: GroupNormCall): number => Math.ceil(quads(call.x.shape.c) / spanQuads(call));

/** Quads of x in a span. */
export const spanReads = (call: GroupNormCall): number => spanQuads(call) * call.x.shape.h * call.x.shape.w;

/** Whether the first kernel makes the result too. */
export const makesResult = (call: GroupNormCall, smallSpanReads: number): boolean =>
  spanReads(call) <= smallSpanReads && !call.averaged;

interface WholeGroups extends Pick<GroupNormWay, 'name' | 'note' | 'fits' | 'cost'> {
  /** Shaders of the same bindings and sizes as these. */
  readonly statistics: typeof spansShader;
  readonly gradientSums: typeof spansBackward;
  /** How often the first kernel reads x. */
  readonly reads: number;
  /** Whether the gradient's first kernel leaves dy, with SiLU taken through it, where dx will be. */
  readonly keepsUpstream: boolean;
  grid(call: GroupNormCall): Grid;
  /** Whether the kernels add by subgroup operations. */
  readonly subgroups?: boolean;
  /** With at most so many reads a span, the first kernel makes the result too, if it is wanted. */
  readonly smallSpanReads: number;
}

const sizesOf = (call: GroupNormCall) => {
  const { x, groups } = call;
  return { PIXELS: x.shape.h * x.shape.w, CHANNELS: x.shape.c, GROUPS: groups, SPAN_QUADS: spanQuads(call) };
};

export const wholeGroups = ({
  statistics,
  gradientSums,
  reads,
  keepsUpstream,
  grid,
  subgroups = false,
  smallSpanReads,
  ...way
}: WholeGroups): GroupNormWay => ({
  ...way,
  embeddingGradient: false,

  forward(graph, call) {
    const { silu, eps, x, y, gamma, beta, embedding, coefficients } = call;
    const small = makesResult(call, smallSpanReads);
    const first = kernelCall(statistics, {
      bind: { x, gamma, beta, embedding: embedding?.tensor ?? null, coefficients, y: small ? y : null },
      sizes: {
        ...sizesOf(call),
        ...embeddingSizes(call),
        EPS: eps,
        EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0,
        SILU: Number(silu),
        APPLY: Number(small),
      },
      tiles: {},
      subgroups,
      grid: grid(call),
      cost: { flops: (small ? 3 : 1) * x.bytes, bytes: (small ? reads + 2 : reads) * x.bytes },
    });
    return small ? [first] : [first, apply(graph, call)];
  },

  backward(graph, call) {
    const { silu, name, x, coefficients, dy, dx, residual } = call;
    const small = spanReads(call) <= smallSpanReads;
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    const first = kernelCall(gradientSums, {
      bind: { dy, x, coefficients, residual: small ? residual : null, terms, dx: small || keepsUpstream ? dx : null },
      sizes: { ...sizesOf(call), RESIDUAL: Number(residual !== null), SILU: Number(silu), APPLY: Number(small) },
      subgroups,
      grid: grid(call),
      cost: { flops: (small ? 7 : 3) * x.bytes, bytes: (small ? 5 : 2) * x.bytes },
    });
    return small ? [first] : [first, applyGradient(graph, call, terms, keepsUpstream)];
  },
});
