/**
 * @file Resampling: by two, nearest-neighbour up and average down; bilinear to any size; the mean over all pixels.
 *
 * The gradient of one resampling is the other, times a factor: averaging spreads a quarter, upsampling collects the sum.
 */
import bilinearShader from '../../shaders/resample/bilinear.wgsl';
import bilinearBackward from '../../shaders/resample/bilinear_backward.wgsl';
import blockSum from '../../shaders/resample/block_sum.wgsl';
import meanPixelsShader from '../../shaders/resample/mean_pixels.wgsl';
import meanPixelsBackward from '../../shaders/resample/mean_pixels_backward.wgsl';
import takePixels from '../../shaders/resample/take_pixels.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, type Origin, quads, type Shape } from '../runtime/resources.ts';
import { type Grid, type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';

/** [N, C, H, W] to [N, C, 2H, 2W]. */
export function upsample(graph: Graph, x: Activation): Activation {
  const { h, w } = x.shape;
  const shape = { ...x.shape, h: 2 * h, w: 2 * w };
  return resample(graph, 'upsample', x, shape, up(1), down(1), { kind: 'upsample', of: x });
}

/** [N, C, H, W] to [N, C, floor(H / 2), floor(W / 2)], the mean of each 2 x 2 block. */
export function downsample(graph: Graph, x: Activation): Activation {
  return resample(graph, 'downsample', x, downsampled(x.shape), down(0.25), up(0.25));
}

/** The shape of what `downsample` makes. @throws Error if there is no whole block */
export function downsampled(shape: Shape): Shape {
  const { h, w } = shape;
  if (h < 2 || w < 2) throw new Error(`cannot average a ${h} x ${w} image down`);
  return { ...shape, h: h >> 1, w: w >> 1 };
}

/** The gradient of `downsample`, for a layer that averages on its own. @param shape of the larger image */
export const downsampleGradient = (graph: Graph, dy: Activation, shape: Shape): Activation =>
  gradient(graph, 'downsample', dy, shape, up(0.25));

/** [N, C, H, W] to [N, C, height, width], bilinear with half-pixel centres. */
export function bilinear(graph: Graph, x: Activation, height: number, width: number): Activation {
  return resample(graph, 'bilinear', x, { ...x.shape, h: height, w: width }, interpolate, collect);
}

/**
 * [N, C, H, W] to [N, C, height, width]: y[oy, ox] = x[oy + top, ox + left], zero beyond the image. Crops and pads.
 *
 * @param top may be negative, as `left`
 */
export function window(
  graph: Graph,
  x: Activation,
  { height, width, top, left }: { height: number; width: number; top: number; left: number },
): Activation {
  return resample(graph, 'window', x, { ...x.shape, h: height, w: width }, shift(top, left), shift(-top, -left));
}

/** One dispatch from `x` to `y`. */
type Kernel = (x: Activation, y: Activation) => KernelCall;

function resample(
  graph: Graph,
  name: string,
  x: Activation,
  shape: Shape,
  kernel: Kernel,
  adjointKernel: Kernel,
  origin?: Origin,
): Activation {
  const y = graph.activation(name, shape, origin);
  graph.append({
    name,
    inputs: [x],
    outputs: [y],
    lower: () => [kernel(x, y)],
    adjoint: ({ outputs: [dy] }) => [gradient(graph, name, dy!, x.shape, adjointKernel)],
  });
  return y;
}

function gradient(graph: Graph, name: string, dy: Activation, shape: Shape, kernel: Kernel): Activation {
  const dx = graph.activation(`${name} gradient`, shape);
  graph.append({ name: `${name} gradient`, inputs: [dy], outputs: [dx], lower: () => [kernel(dy, dx)] });
  return dx;
}

/** Of a kernel that goes from images of one size to those of another. */
export const sizes = (from: Shape, to: Shape) => ({
  HEIGHT: from.h,
  WIDTH: from.w,
  OUT_HEIGHT: to.h,
  OUT_WIDTH: to.w,
  CHANNEL_QUADS: quads(from.c),
});

/** One invocation a quad of y. */
export const perQuad = (x: Activation, y: Activation) => ({
  grid: [Math.ceil((y.shape.w * quads(y.shape.c)) / 64), y.shape.h, y.shape.n] as Grid,
  cost: { flops: y.bytes, bytes: x.bytes + y.bytes },
});

const take =
  (from: { TOP: number; LEFT: number; SHIFT: number; FACTOR: number }): Kernel =>
  (x, y) =>
    kernelCall(takePixels, { bind: { x, y }, sizes: { ...sizes(x.shape, y.shape), ...from }, ...perQuad(x, y) });

const up = (FACTOR: number): Kernel => take({ TOP: 0, LEFT: 0, SHIFT: 1, FACTOR });

const shift = (TOP: number, LEFT: number): Kernel => take({ TOP, LEFT, SHIFT: 0, FACTOR: 1 });

const down =
  (FACTOR: number): Kernel =>
  (x, y) =>
    kernelCall(blockSum, { bind: { x, y }, sizes: { ...sizes(x.shape, y.shape), FACTOR }, ...perQuad(x, y) });

const interpolate: Kernel = (x, y) =>
  kernelCall(bilinearShader, { bind: { x, y }, sizes: sizes(x.shape, y.shape), ...perQuad(x, y) });

const collect: Kernel = (dy, dx) =>
  kernelCall(bilinearBackward, { bind: { dy, dx }, sizes: sizes(dx.shape, dy.shape), ...perQuad(dy, dx) });

/** [N, C, H, W] to [N, C, 1, 1]: the mean over all pixels. */
export function meanPixels(graph: Graph, x: Activation): Activation {
  const { n, h, w, c } = x.shape;
  const y = graph.activation('mean of pixels', { n, h: 1, w: 1, c });
  const sizes = { IMAGES: n, PIXELS: h * w, CHANNEL_QUADS: quads(c) };
  const cost = { flops: x.bytes / 4, bytes: x.bytes + y.bytes };
  graph.append({
    name: 'mean of pixels',
    inputs: [x],
    outputs: [y],
    lower: () => [kernelCall(meanPixelsShader, { bind: { x, y }, sizes, grid: lineGrid(y.bytes / 16, 64), cost })],
    adjoint: ({ outputs: [dy] }) => {
      const dx = graph.activation('mean of pixels gradient', x.shape);
      graph.append({
        name: 'mean of pixels gradient',
        inputs: [dy!],
        outputs: [dx],
        lower: () => [
          kernelCall(meanPixelsBackward, { bind: { dy: dy!, dx }, sizes, grid: lineGrid(dx.bytes / 16, 64), cost }),
        ],
      });
      return [dx];
    },
  });
  return y;
}
