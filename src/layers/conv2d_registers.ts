/**
 * @file Convolution with a tile of pixels and channels in the registers of each invocation, without a barrier.
 *
 * Every value comes straight from storage; larger tiles load less for each multiply-add, smaller ones make more invocations.
 */
import convForward from '../../shaders/conv2d/forward.wgsl';
import convInputGradientStrided from '../../shaders/conv2d/input_gradient_strided.wgsl';
import { quads, stored } from '../runtime/resources.ts';
import { kernelCall } from '../runtime/shader.ts';
import type { Variant } from '../runtime/variants.ts';
import { type ConvolutionCall, convolutionCost, type StridedGradientCall } from './convolution_call.ts';
import {
  type RegisterTile,
  registerFits,
  registerTileCost,
  registerTileNote,
  THREADS,
  tileGrid,
} from './register_tiles.ts';

/** Neighbours of a row, and quads of output channels. */
const TILES: readonly RegisterTile[] = [4, 8, 16].flatMap((run) => [1, 2, 4].map((own) => ({ run, quads: own })));

/** With nine taps unrolled, four quads take SwiftShader one to two seconds to compile, for a tenth of the time. */
const CPU_QUADS = 2;

/** Loads and multiply-adds of the innermost body: one row of taps and one quad of input channels. */
const body = (kernel: number, stride: number, { run, quads: own }: RegisterTile) => ({
  loads: (run - 1) * stride + kernel + 4 * kernel * own,
  multiplyAdds: 4 * kernel * run * own,
});

export const forward: readonly Variant<ConvolutionCall>[] = TILES.map((tile) => ({
  name: `registers ${tile.run}x${tile.quads}`,
  accuracy: () => 'float32',
  note: registerTileNote(tile),

  // At stride 2 the line is twice as long, and SwiftShader's compiler did not get through 16 pixels in two minutes, where
  // 8 take it half a second.
  fits: (target, { stride, y }) =>
    registerFits(target, tile, y.shape.w, quads(y.shape.c), CPU_QUADS) && tile.run * stride <= 16,

  cost: (target, { kernel, stride, x, y }) =>
    registerTileCost(target, tile, {
      rows: y.shape.n * y.shape.h,
      columns: y.shape.w,
      outQuads: quads(y.shape.c),
      bodies: kernel * quads(x.shape.c),
      ...body(kernel, stride, tile),
    }),

  lower(_graph, { kernel, stride, x, bias, residual, y, weights }) {
    const { n, h, w, c } = y.shape;
    const input = stored(x);
    const added = residual && stored(residual);
    return [
      kernelCall(convForward, {
        bind: { x: input.tensor, weights: weights(), bias, residual: added?.tensor ?? null, y },
        sizes: {
          X_SHIFT: input.shift,
          RESIDUAL_SHIFT: added?.shift ?? 0,
          HEIGHT: x.shape.h,
          WIDTH: x.shape.w,
          IN_QUADS: quads(x.shape.c),
          OUT_ROWS: n * h,
          OUT_HEIGHT: h,
          OUT_WIDTH: w,
          OUT_QUADS: quads(c),
          BIAS: Number(bias !== null),
          RESIDUAL: Number(residual !== null),
        },
        switches: THREADS,
        tiles: { PIXELS: tile.run, QUADS: tile.quads, KERNEL: kernel, STRIDE: stride },
        grid: tileGrid(tile, n * h, w, quads(c)),
        cost: convolutionCost(kernel, x.shape, y.shape, n * h * w),
      }),
    ];
  },
}));

/** One dense pass over each parity class of the columns: half of a row's pixels at once. */
export const stridedGradient: readonly Variant<StridedGradientCall>[] = TILES.map((tile) => ({
  name: `registers ${tile.run}x${tile.quads}`,
  accuracy: () => 'float32',
  note: registerTileNote(tile),

  fits: (target, { dx }) =>
    registerFits(target, tile, Math.ceil(dx.shape.w / 2), quads(dx.shape.c), CPU_QUADS) && tile.run <= 8,

  cost: (target, { kernel, dy, dx }) =>
    registerTileCost(target, tile, {
      rows: dx.shape.n * dx.shape.h,
      columns: Math.ceil(dx.shape.w / 2),
      outQuads: quads(dx.shape.c),
      bodies: kernel * quads(dy.shape.c),
      ...body(kernel, 1, tile),
    }),

  lower(_graph, { kernel, dy, residual, dx, weights }) {
    const { n, h, w, c } = dx.shape;
    const [columns, rows] = tileGrid(tile, n * h, Math.ceil(w / 2), quads(c));
    return [
      kernelCall(convInputGradientStrided, {
        bind: { dy, weights: weights(), residual, dx },
        sizes: {
          HEIGHT: h,
          WIDTH: w,
          ROWS: n * h,
          IN_QUADS: quads(c),
          OUT_HEIGHT: dy.shape.h,
          OUT_WIDTH: dy.shape.w,
          OUT_QUADS: quads(dy.shape.c),
          RESIDUAL: Number(residual !== null),
        },
        switches: THREADS,
        tiles: { PIXELS: tile.run, QUADS: tile.quads, KERNEL: kernel },
        grid: [columns, rows, 2],
        cost: convolutionCost(kernel, dx.shape, dy.shape, dy.shape.n * dy.shape.h * dy.shape.w),
      }),
    ];
  },
}));
