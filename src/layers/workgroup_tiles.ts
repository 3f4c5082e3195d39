/**
 * @file Products with tiles of both factors staged in workgroup memory: which tiles there are, what they should cost, and
 * the call, whole or split over the input channels.
 *
 * Shared by convolution and linear layers, which are convolutions of an image one pixel high. For GPUs: there a value from
 * workgroup memory costs little more than one in a register, and a value from storage is read once for a whole tile. On a
 * CPU adapter both kinds of memory cost the same and a barrier costs microseconds, so the cost keeps it away.
 */
import workgroupProduct from '../../shaders/conv2d/workgroup.wgsl';
import { type Graph, type Target, workgroupBytes } from '../runtime/graph.ts';
import { activationBytes, pixels, quads, type Shape, stored, type Tensor } from '../runtime/resources.ts';
import { type Cost, type KernelCall, kernelCall } from '../runtime/shader.ts';
import { type ConvolutionCall, convolutionCost } from './convolution_call.ts';
import type { ProductCall } from './product_call.ts';
import { GPU_LANES, loadCost, SLOW_COMPILER_ACCUMULATORS } from './register_tiles.ts';
import { sumParts } from './sum_parts.ts';

export interface WorkgroupTile {
  /** Pixels and channels of a workgroup, as the name has them. */
  readonly name: string;
  /** Invocations along pixels and channels. */
  readonly across: number;
  readonly down: number;
  /** Pixels, and quads of output channels, of an invocation. */
  readonly run: number;
  readonly quads: number;
  /** Quads of input channels a step. */
  readonly depth: number;
}

/**
 * Across is a multiple of 8 and down of 4, for the shader's way to share work; every invocation stages the same number of values.
 * The first takes 4.6 kB of workgroup memory, the last 16.9 kB, more than WebGPU's default limit.
 */
export const WORKGROUP_TILES: readonly [WorkgroupTile, ...WorkgroupTile[]] = [
  { name: '32x32', across: 8, down: 4, run: 4, quads: 2, depth: 2 },
  { name: '64x64', across: 8, down: 8, run: 8, quads: 2, depth: 2 },
  { name: '64x64x4', across: 16, down: 8, run: 4, quads: 2, depth: 2 },
  { name: '128x64', across: 16, down: 8, run: 8, quads: 2, depth: 2 },
  { name: '128x128', across: 16, down: 16, run: 8, quads: 2, depth: 2 },
];

/** Bytes of workgroup memory: two halves of staged inputs and weights, padded as the shader has it. */
export const stagedBytes = ({ across, down, run, quads: own, depth }: WorkgroupTile): number =>
  2 * 16 * depth * (across * run + 8 / depth + 4 * (down * own + 1));

/** Invocations that keep a GPU busy here: each has 8 or 16 independent sums, so fewer waves hide its waiting. */
export const STAGED_LANES = GPU_LANES / 4;

/** What a load from workgroup memory costs beside a multiply-add of vec4f, and what two barriers cost an invocation. */
const SHARED_COST = { cpu: 8, gpu: 1 } as const;
const BARRIERS_COST = { cpu: 80, gpu: 24 } as const;

/** How large a product is: the sizes of input and output as images. */
export interface StagedSizes {
  readonly kernel: 1 | 3;
  readonly from: Shape;
  readonly to: Shape;
  /** Matrices of their own, along z: Winograd's points. 1 if absent. */
  readonly points?: number;
  /** Of the layer that it is a part of, where they are others than the product's own. */
  readonly multiplyAdds?: number;
}

/** A product as the shader sees it. */
export interface StagedCall extends StagedSizes, Pick<ConvolutionCall, 'stride' | 'bias' | 'weights'> {
  /** What is stored of the input: with `shift` 1 at half the size. */
  readonly x: { readonly tensor: Tensor; readonly shift: 0 | 1 };
  readonly residual: { readonly tensor: Tensor; readonly shift: 0 | 1 } | null;
  readonly y: Tensor;
  /** By default the one that computes in float32. */
  readonly shader?: typeof workgroupProduct;
}

/** Pixels and quads of output channels of a workgroup. */
const extent = ({ across, down, run, quads: own }: WorkgroupTile) => ({ rows: across * run, columns: down * own });

/** Fewer rows than this leave most of any tile empty: a single embedding, a map of one pixel. */
export const LEAST_ROWS = 5;

/** Not a tile that is for the most part beyond the edge. */
export function workgroupFits(target: Target, tile: WorkgroupTile, { to }: StagedSizes): boolean {
  const { rows, columns } = extent(tile);
  if (stagedBytes(tile) > workgroupBytes(target)) return false;
  if (target.slowCompiler && tile.run * tile.quads > SLOW_COMPILER_ACCUMULATORS) return false;
  if (tile === WORKGROUP_TILES[0]) return pixels(to) >= LEAST_ROWS;
  return pixels(to) > rows / 2 && quads(to.c) > columns / 2;
}

/** @param parts of the input channels, each a workgroup's own */
export function workgroupCost(target: Target, tile: WorkgroupTile, call: StagedSizes, parts = 1): number {
  const { kernel, from, to, points = 1 } = call;
  const { rows, columns } = extent(tile);
  const { depth } = tile;
  const threads = tile.across * tile.down;
  const groups = Math.ceil(pixels(to) / rows) * Math.ceil(quads(to.c) / columns) * parts * points;
  const steps = kernel * kernel * Math.ceil(quads(from.c) / parts / depth);
  const staged = (depth * (rows + 4 * columns)) / threads;
  const shared = depth * (tile.run + 4 * tile.quads);
  const step =
    (loadCost(target) + SHARED_COST[target.adapter]) * staged +
    SHARED_COST[target.adapter] * shared +
    BARRIERS_COST[target.adapter] +
    4 * depth * tile.run * tile.quads;
  const invocations = groups * threads;
  return steps * step * (target.adapter === 'gpu' ? Math.max(invocations, STAGED_LANES) : invocations);
}

export const lowerStaged = (graph: Graph, tile: WorkgroupTile, call: StagedCall, parts = 1): KernelCall[] =>
  inParts(graph, call, parts, (whole, result) => product(tile, whole, result, parts));

/**
 * A product whole, or its parts and then their sum, with bias and residual added last.
 *
 * @param product the dispatch that makes `result`, all parts of it
 */
export function inParts(
  graph: Graph,
  call: StagedCall,
  parts: number,
  product: (call: StagedCall, result: Tensor) => KernelCall,
): KernelCall[] {
  const { bias, residual, y, to } = call;
  if (parts === 1) return [product(call, y)];
  const partial = graph.array('parts of a product', 4 * parts * pixels(to) * quads(to.c));
  return [
    product({ ...call, bias: null, residual: null }, partial),
    sumParts({ partial, parts, bias, residual, y, to }),
  ];
}

function product(tile: WorkgroupTile, call: StagedCall, result: Tensor, parts: number): KernelCall {
  const { kernel, stride, x, bias, residual, from, to, weights, shader = workgroupProduct, points = 1 } = call;
  const { n, h, w, c } = to;
  const { rows, columns } = extent(tile);
  const work = workOf(call);
  return kernelCall(shader, {
    bind: { x: x.tensor, weights: weights(), bias, residual: residual?.tensor ?? null, y: result },
    sizes: {
      X_SHIFT: x.shift,
      RESIDUAL_SHIFT: residual?.shift ?? 0,
      POINTS: points,
      HEIGHT: from.h,
      WIDTH: from.w,
      IN_QUADS: quads(from.c),
      PIXELS: n * h * w,
      OUT_HEIGHT: h,
      OUT_WIDTH: w,
      OUT_QUADS: quads(c),
      PART: partOf(tile, from, parts),
      BIAS: Number(bias !== null),
      RESIDUAL: Number(residual !== null),
    },
    tiles: {
      ACROSS: tile.across,
      DOWN: tile.down,
      RUN: tile.run,
      QUADS: tile.quads,
      DEPTH: tile.depth,
      KERNEL: kernel,
      STRIDE: stride,
    },
    grid: [Math.ceil((n * h * w) / rows), Math.ceil(quads(c) / columns), parts * points],
    cost: { ...work, bytes: work.bytes + result.bytes },
  });
}

/** What a product takes at least, but for its result. */
function workOf({ kernel, from, to, points = 1, multiplyAdds }: StagedSizes): Cost {
  const { bytes, flops } = convolutionCost(kernel, from, to, pixels(to));
  const cost = { flops: points * flops, bytes: points * (bytes - activationBytes(to)) };
  return multiplyAdds === undefined ? cost : { ...cost, multiplyAdds };
}

/** Quads of input channels of a part. */
const partOf = ({ depth }: WorkgroupTile, { c }: Shape, parts: number): number =>
  depth * Math.ceil(quads(c) / parts / depth);

/** Numbers of parts worth trying where the output alone has too few tiles for a GPU. */
export const PARTS: readonly number[] = [4, 16];

/** Every part has work, and the whole is small enough to leave a GPU idle. */
export function partsFit(tile: WorkgroupTile, { from, to }: StagedSizes, parts: number): boolean {
  const { rows, columns } = extent(tile);
  const groups = Math.ceil(pixels(to) / rows) * Math.ceil(quads(to.c) / columns);
  return (
    pixels(to) >= LEAST_ROWS &&
    partOf(tile, from, parts) * (parts - 1) < quads(from.c) &&
    groups * tile.across * tile.down < STAGED_LANES
  );
}

export const stagedConvolution = (call: ConvolutionCall): StagedCall => ({
  ...call,
  x: stored(call.x),
  residual: call.residual && stored(call.residual),
  from: call.x.shape,
  to: call.y.shape,
});

/** A linear layer as a convolution: all rows side by side in one image. */
export const stagedProduct = (call: ProductCall): StagedCall => ({
  ...call,
  kernel: 1,
  stride: 1,
  x: { tensor: call.x, shift: 0 },
  residual: call.residual && { tensor: call.residual, shift: 0 },
  from: { n: 1, h: 1, w: pixels(call.x.shape), c: call.x.shape.c },
  to: { n: 1, h: 1, w: pixels(call.y.shape), c: call.y.shape.c },
});
