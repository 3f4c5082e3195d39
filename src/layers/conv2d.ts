/**
 * @file Convolution, 3 x 3 or 1 x 1, stride 1 or 2, padding (kernel - 1) / 2.
 *
 *   y = w * x + b (+ residual)
 *
 * Input gradient: at stride 1 the forward kernel on transposed weights with reversed taps; at stride 2 a dense pass over
 * each parity class. Saved for the backward pass: nothing.
 */
import convForward from '../../shaders/conv2d/forward.wgsl';
import convInputGradientStrided from '../../shaders/conv2d/input_gradient_strided.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, activationBytes, type PackedWeights, quads, type Shape } from '../runtime/resources.ts';
import { type Cost, type KernelCall, kernelCall } from '../runtime/shader.ts';
import type { ChannelMap } from '../runtime/weights.ts';
import type { Builder, Parameter } from './builder.ts';
import * as linear from './linear.ts';

export interface Conv2d {
  readonly in: number;
  readonly out: number;
  readonly kernel: 1 | 3;
  readonly stride: 1 | 2;
}

export interface Conv2dOptions {
  /** Added to the result; its shape. */
  readonly residual?: Activation | null;
  /** Order and padding of the input channels, where they are not the checkpoint's. */
  readonly inMap?: ChannelMap | null;
}

export function parameters({ in: ins, out, kernel }: Conv2d, name: string): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [out, ins, kernel, kernel] },
    { name: `${name}.bias`, shape: [out] },
  ];
}

export function shape({ out, stride }: Conv2d, x: Shape): Shape {
  return { n: x.n, h: Math.ceil(x.h / stride), w: Math.ceil(x.w / stride), c: out };
}

export function forward(
  b: Builder,
  spec: Conv2d,
  name: string,
  x: Activation,
  options: Conv2dOptions = {},
): Activation {
  const { residual = null, inMap = null } = options;
  const ins = inMap?.length ?? spec.in;
  if (x.shape.c !== ins) throw new Error(`${name} takes ${ins} channels, found ${x.shape.c}`);
  if (spec.kernel === 1 && spec.stride === 1) return linear.forward(b, name, x, options);
  const weights = b.weights.matrix(`${name}.weight`, { inMap });
  const bias = b.weights.vector(`${name}.bias`);
  const y = b.graph.activation(name, shape(spec, x.shape));
  b.graph.append({
    name: `${name} conv2d`,
    inputs: residual ? [x, residual] : [x],
    outputs: [y],
    lower: () => [convolution(b.graph, spec, x, weights, bias, residual, y)],
    adjoint: ({ outputs: [dy], needs, take }) => {
      if (!needs[0]) return [null, dy!];
      const transposed = b.weights.matrix(`${name}.weight`, { inMap, transpose: true, flip: spec.stride === 1 });
      const before = take(0);
      const dx = b.graph.activation(`${name} gradient`, x.shape);
      b.graph.append({
        name: `${name} conv2d gradient`,
        inputs: before ? [dy!, before] : [dy!],
        outputs: [dx],
        lower: () => [
          spec.stride === 1
            ? convolution(b.graph, spec, dy!, transposed, null, before, dx)
            : stridedGradient(b.graph, spec, dy!, transposed, before, dx),
        ],
      });
      return [dx, dy!];
    },
  });
  return y;
}

const THREADS = { THREADS_X: 16, THREADS_Y: 4 };

function convolution(
  graph: Graph,
  { kernel, stride }: Conv2d,
  x: Activation,
  weights: PackedWeights,
  bias: PackedWeights | null,
  residual: Activation | null,
  y: Activation,
): KernelCall {
  const { n, h, w, c } = y.shape;
  const tiles = tile(graph, w, quads(c), stride);
  return kernelCall(convForward, {
    bind: { x, weights, bias, residual, y },
    sizes: {
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
    tiles: { ...tiles, KERNEL: kernel, STRIDE: stride },
    grid: [
      Math.ceil((n * h * Math.ceil(w / tiles.PIXELS)) / THREADS.THREADS_X),
      Math.ceil(Math.ceil(quads(c) / tiles.QUADS) / THREADS.THREADS_Y),
      1,
    ],
    cost: convolutionCost(kernel, x.shape, y.shape, n * h * w),
  });
}

function stridedGradient(
  graph: Graph,
  { kernel }: Conv2d,
  dy: Activation,
  weights: PackedWeights,
  residual: Activation | null,
  dx: Activation,
): KernelCall {
  const { n, h, w, c } = dx.shape;
  const columns = Math.ceil(w / 2);
  const tiles = tile(graph, columns, quads(c), 2);
  return kernelCall(convInputGradientStrided, {
    bind: { dy, weights, residual, dx },
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
    tiles: { ...tiles, KERNEL: kernel },
    grid: [
      Math.ceil((n * h * Math.ceil(columns / tiles.PIXELS)) / THREADS.THREADS_X),
      Math.ceil(Math.ceil(quads(c) / tiles.QUADS) / THREADS.THREADS_Y),
      2,
    ],
    cost: convolutionCost(kernel, dx.shape, dy.shape, dy.shape.n * dy.shape.h * dy.shape.w),
  });
}

/**
 * On a CPU adapter a load costs several multiply-adds, so a longer run of pixels pays, up to the row's width; on a GPU it
 * would cost occupancy. At stride 2 the line is twice as long, and SwiftShader's compiler did not get through 16 pixels in
 * two minutes, where 8 take it half a second.
 */
function tile({ target }: Graph, width: number, outQuads: number, stride: 1 | 2): { PIXELS: number; QUADS: number } {
  const QUADS = outQuads === 1 || target.slowCompiler ? 1 : 2;
  if (target.adapter === 'gpu' || width <= 4) return { PIXELS: 4, QUADS };
  return { PIXELS: width < 12 || stride === 2 ? 8 : 16, QUADS };
}

function convolutionCost(kernel: number, x: Shape, y: Shape, outputs: number): Cost {
  const weights = kernel * kernel * x.c * y.c;
  return { flops: 2 * outputs * weights, bytes: activationBytes(x) + activationBytes(y) + 4 * weights };
}

/** Floating-point operations and bytes of one forward pass; the input gradient costs the same. */
export function cost(spec: Conv2d, x: Shape): Cost {
  const y = shape(spec, x);
  return convolutionCost(spec.kernel, x, y, y.n * y.h * y.w);
}
