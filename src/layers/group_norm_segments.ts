/**
 * @file GroupNorm by segments: moments of channels over segments of the map, one affine map a channel, apply; and for the
 * gradient two sums a channel and segment, what a channel needs of its group, apply. Three dispatches each, with many
 * invocations in the first and the last.
 */
import applyShader from '../../shaders/group_norm/apply.wgsl';
import applyDownShader from '../../shaders/group_norm/apply_down.wgsl';
import backwardApply from '../../shaders/group_norm/backward_apply.wgsl';
import backwardCoefficients from '../../shaders/group_norm/backward_coefficients.wgsl';
import backwardSums from '../../shaders/group_norm/backward_sums.wgsl';
import coefficientsShader from '../../shaders/group_norm/coefficients.wgsl';
import momentsShader from '../../shaders/group_norm/moments.wgsl';
import type { Graph, Target } from '../runtime/graph.ts';
import { type Activation, quads, type Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import {
  COSTS,
  EMBEDDING_MODES,
  embeddingSizes,
  type GroupNormCall,
  type GroupNormGradientCall,
  type GroupNormWay,
} from './group_norm_call.ts';
import { perQuad, sizes } from './resample.ts';

/** Pixels that the moments kernel holds in registers; its RUN. */
const RUN = 8;

/** Pixels that an invocation of the last kernels makes: on a CPU more, since it loads what belongs to the channel first. */
const applyRun = ({ target }: Graph): number => (target.adapter === 'cpu' ? 16 : 4);

/** Segments an image is cut into: enough to keep a GPU busy, few enough to be joined by one invocation a channel. */
const MAX_SEGMENTS = 32;

const imageSizes = ({ n, h, w, c }: GroupNormCall['x']['shape']) => ({
  IMAGES: n,
  PIXELS: h * w,
  CHANNEL_QUADS: quads(c),
});

const groupSizes = ({ groups, x }: GroupNormCall) => ({
  IMAGES: x.shape.n,
  PIXELS: x.shape.h * x.shape.w,
  CHANNELS: x.shape.c,
  GROUPS: groups,
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

const applyGrid = ({ x: { shape } }: GroupNormCall, run: number) =>
  lineGrid(shape.n * Math.ceil((shape.h * shape.w) / run) * quads(shape.c), 64);

/** Of the last kernel, without its dispatch: a load, a store and SiLU. */
export function applyCost(adapter: Target['adapter'], { x }: GroupNormCall): number {
  const { lanes, load } = COSTS[adapter];
  return Math.max(1, x.bytes / 16 / lanes) * 3 * load;
}

/** The affine map of each channel, and SiLU. */
export function apply(graph: Graph, call: GroupNormCall): KernelCall {
  const RUN = applyRun(graph);
  const { silu, x, y, coefficients } = call;
  return kernelCall(applyShader, {
    bind: { x, coefficients, y },
    sizes: imageSizes(x.shape),
    switches: { SILU: silu },
    tiles: { RUN },
    grid: applyGrid(call, RUN),
    cost: { flops: (silu ? 8 : 2) * (x.bytes / 4), bytes: 2 * x.bytes },
  });
}

/**
 * The mean of each 2 x 2 block of the result, and of x, in one pass over x.
 *
 * @param y [N, C, floor(H / 2), floor(W / 2)], as `xMean`
 */
export function applyDown({ silu, x, coefficients }: GroupNormCall, y: Activation, xMean: Activation): KernelCall {
  return kernelCall(applyDownShader, {
    ...perQuad(x, y),
    bind: { x, coefficients, y, x_mean: xMean },
    sizes: { ...sizes(x.shape, y.shape), SILU: Number(silu) },
    cost: { flops: (silu ? 10 : 4) * (x.bytes / 4), bytes: x.bytes + 2 * y.bytes },
  });
}

/** Whether the first pass leaves g, dy through SiLU, for the last: on a GPU another store costs more than an exponential. */
const storesUpstream = ({ target }: Graph, { silu }: GroupNormCall): boolean => target.adapter === 'cpu' && silu;

/**
 * @param terms [N, 2, C padded]: slope and constant of each channel
 * @param stored dx holds dy, taken through SiLU, already
 */
export function applyGradient(graph: Graph, call: GroupNormGradientCall, terms: Tensor, stored: boolean): KernelCall {
  const RUN = applyRun(graph);
  const { silu, x, coefficients, dy, dx, residual } = call;
  return kernelCall(backwardApply, {
    bind: { dy: stored ? null : dy, x, coefficients, terms, residual, dx },
    sizes: { ...imageSizes(x.shape), RESIDUAL: Number(residual !== null) },
    switches: { SILU: silu && !stored, STORED: stored },
    tiles: { RUN },
    grid: applyGrid(call, RUN),
    cost: { flops: (silu && !stored ? 16 : 6) * (x.bytes / 4), bytes: (residual ? 4 : 3) * x.bytes },
  });
}

/** Numbers that an invocation of the second kernel loads: two of all segments of all channels of its group, twice. */
const joinLoads = (call: GroupNormCall): number => 4 * cut(call).segments * (call.x.shape.c / call.groups);

export const segments: GroupNormWay = {
  name: 'segments',
  note: 'many invocations: for GPUs and large maps',
  embeddingGradient: true,
  fits: () => true,

  cost({ adapter }, call) {
    const { lanes, load, number, dispatch } = COSTS[adapter];
    const { n, h, w, c } = call.x.shape;
    const { segments: count } = cut(call);
    const busy = (invocations: number, each: number) => Math.max(1, invocations / lanes) * each;
    return (
      3 * dispatch +
      busy(n * count * quads(c), ((h * w) / count) * load) +
      busy(n * c, joinLoads(call) * number) +
      applyCost(adapter, call)
    );
  },

  forward(graph, call) {
    const { eps, name, x, gamma, beta, embedding, coefficients } = call;
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
        sizes: { ...groupSizes(call), ...sizes, ...embeddingSizes(call), EPS: eps },
        switches: { EMBEDDING: embedding ? EMBEDDING_MODES[embedding.mode] : 0 },
        grid: channelGrid(call),
        cost: { flops: 0, bytes: moments.bytes + coefficients.bytes },
      }),
      apply(graph, call),
    ];
  },

  backward(graph, call) {
    const { silu, name, x, gamma, beta, embedding, coefficients, dy, dx, dEmbedding } = call;
    const { sizes, segments: count, grid, words } = cut(call);
    const store = dx !== null && storesUpstream(graph, call);
    const mode = dEmbedding && embedding ? embedding.mode : null;
    const sums = graph.array(`${name} gradient sums`, words(mode === 'add' ? 3 : 2));
    const terms = graph.array(`${name} gradient terms`, x.shape.n * 2 * quads(x.shape.c) * 4);
    return [
      kernelCall(backwardSums, {
        bind: { dy, x, coefficients, sums, dx: store ? dx : null },
        sizes: { ...imageSizes(x.shape), ...sizes },
        switches: { SILU: silu, DEVIATIONS: mode === 'add', STORE: store },
        grid,
        cost: { flops: (silu ? 12 : 4) * (x.bytes / 4), bytes: 2 * x.bytes },
      }),
      kernelCall(backwardCoefficients, {
        bind: { sums, coefficients, gamma, beta, terms, d_embedding: dEmbedding },
        sizes: { ...groupSizes(call), SEGMENTS: count },
        switches: { EMBEDDING: mode ? EMBEDDING_MODES[mode] : 0 },
        grid: channelGrid(call),
        cost: { flops: 0, bytes: sums.bytes + terms.bytes },
      }),
      ...(dx ? [applyGradient(graph, call, terms, store)] : []),
    ];
  },
};
