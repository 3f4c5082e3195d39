/**
 * @file GroupNorm by segments: moments of channels over segments of the map, one affine map a channel, apply; and for the
 * gradient two sums a channel and segment, what a channel needs of its group, apply. Three dispatches each, with many
 * invocations in the first and the last.
 */
import applyShader from '../../shaders/group_norm/apply.wgsl';
import backwardApply from '../../shaders/group_norm/backward_apply.wgsl';
import backwardCoefficients from '../../shaders/group_norm/backward_coefficients.wgsl';
import backwardSums from '../../shaders/group_norm/backward_sums.wgsl';
import coefficientsShader from '../../shaders/group_norm/coefficients.wgsl';
import momentsShader from '../../shaders/group_norm/moments.wgsl';
import { quads, type Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import type { GroupNormCall, GroupNormGradient, GroupNormWay } from './group_norm.ts';

/** EMBEDDING of the shaders. */
export const EMBEDDING_MODES = { 'scale-shift': 1, add: 2 } as const;

/** Pixels that the moments kernel holds in registers; its RUN. */
const RUN = 8;

/** Pixels that an invocation of the last kernels makes; their RUN. */
const APPLY_RUN = 4;

/** Segments an image is cut into: enough to keep a GPU busy, few enough to be joined by one invocation a channel. */
const MAX_SEGMENTS = 32;

const imageSizes = ({ n, h, w, c }: GroupNormCall['x']['shape']) => ({
  IMAGES: n,
  PIXELS: h * w,
  CHANNEL_QUADS: quads(c),
});

const groupSizes = ({ spec, x }: GroupNormCall) => ({
  IMAGES: x.shape.n,
  PIXELS: x.shape.h * x.shape.w,
  CHANNELS: spec.channels,
  GROUPS: spec.groups,
});

function cut({ x }: GroupNormCall) {
  const { n, h, w, c } = x.shape;
  const runs = Math.ceil((h * w) / RUN);
  const blocks = Math.ceil(runs / MAX_SEGMENTS);
  const segments = Math.ceil(runs / blocks);
  return {
    segments,
    blocks,
    sizes: { SEGMENTS: segments, SEGMENT_PIXELS: blocks * RUN },
    grid: lineGrid(n * segments * quads(c), 64),
    /** Words of `sums` numbers for each channel and segment. */
    words: (sums: number) => n * segments * sums * quads(c) * 4,
  };
}

const channelGrid = ({ x }: GroupNormCall) => lineGrid(x.shape.n * quads(x.shape.c) * 4, 64);

const applyGrid = ({ x: { shape } }: GroupNormCall) =>
  lineGrid(shape.n * Math.ceil((shape.h * shape.w) / APPLY_RUN) * quads(shape.c), 64);

/** The affine map of each channel, and SiLU. */
export function apply(call: GroupNormCall): KernelCall {
  const { spec, x, y, coefficients } = call;
  return kernelCall(applyShader, {
    bind: { x, coefficients, y },
    sizes: imageSizes(x.shape),
    switches: { SILU: spec.silu },
    tiles: { RUN: APPLY_RUN },
    grid: applyGrid(call),
    cost: { flops: (spec.silu ? 8 : 2) * (x.bytes / 4), bytes: 2 * x.bytes },
  });
}

/** @param terms [N, 2, C padded]: slope and constant of each channel */
export function applyGradient(call: GroupNormCall, { dy, dx, residual }: GroupNormGradient, terms: Tensor): KernelCall {
  const { spec, x, coefficients } = call;
  return kernelCall(backwardApply, {
    bind: { dy, x, coefficients, terms, residual, dx },
    sizes: { ...imageSizes(x.shape), RESIDUAL: Number(residual !== null) },
    switches: { SILU: spec.silu },
    tiles: { RUN: APPLY_RUN },
    grid: applyGrid(call),
    cost: { flops: (spec.silu ? 16 : 6) * (x.bytes / 4), bytes: (residual ? 4 : 3) * x.bytes },
  });
}

export const segments: GroupNormWay = {
  forward(graph, call) {
    const { spec, name, x, gamma, beta, embedding, coefficients } = call;
    const { blocks, segments: count, sizes, grid, words } = cut(call);
    const moments = graph.array(`${name} moments`, words(2));
    return [
      kernelCall(momentsShader, {
        bind: { x, moments },
        sizes: { ...imageSizes(x.shape), SEGMENTS: count, BLOCKS: blocks },
        tiles: { RUN },
        grid,
        cost: { flops: x.bytes, bytes: x.bytes },
      }),
      kernelCall(coefficientsShader, {
        bind: { moments, gamma, beta, embedding: embedding?.tensor ?? null, coefficients },
        sizes: { ...groupSizes(call), ...sizes, ...embeddingSizes(call), EPS: spec.eps },
        switches: { EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0 },
        grid: channelGrid(call),
        cost: { flops: 0, bytes: moments.bytes + coefficients.bytes },
      }),
      apply(call),
    ];
  },

  backward(graph, call, gradient) {
    const { spec, name, x, gamma, beta, embedding, coefficients } = call;
    const { dy, dx, dEmbedding } = gradient;
    const { sizes, segments: count, grid, words } = cut(call);
    const mode = dEmbedding && embedding ? embedding.mode : null;
    const sums = graph.array(`${name} gradient sums`, words(mode === 'add' ? 3 : 2));
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    return [
      kernelCall(backwardSums, {
        bind: { dy, x, coefficients, sums },
        sizes: { ...imageSizes(x.shape), ...sizes },
        switches: { SILU: spec.silu, DEVIATIONS: mode === 'add' },
        tiles: {},
        grid,
        cost: { flops: (spec.silu ? 12 : 4) * (x.bytes / 4), bytes: 2 * x.bytes },
      }),
      kernelCall(backwardCoefficients, {
        bind: { sums, coefficients, gamma, beta, terms, d_embedding: dEmbedding },
        sizes: { ...groupSizes(call), SEGMENTS: count },
        switches: { EMBEDDING: mode ? EMBEDDING_MODES[mode] : 0 },
        grid: channelGrid(call),
        cost: { flops: 0, bytes: sums.bytes + terms.bytes },
      }),
      ...(dx ? [applyGradient(call, gradient, terms)] : []),
    ];
  },
};

export const embeddingSizes = ({ embedding }: GroupNormCall) => ({
  EMBEDDING_STRIDE: embedding ? quads(embedding.tensor.shape.c) * 4 : 0,
  EMBEDDING_OFFSET: embedding?.offset ?? 0,
});
