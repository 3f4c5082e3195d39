/**
 * @file Convolution, 3 x 3 or 1 x 1, stride 1 or 2, padding (kernel - 1) / 2.
 *
 *   y = w * x + b (+ residual)
 *
 * Input gradient: at stride 1 the forward kernel on transposed weights with reversed taps; at stride 2 a dense pass over
 * each parity class. Saved for the backward pass: nothing.
 */
import type { Activation, Shape } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import { type Family, variantsOf } from '../runtime/variants.ts';
import { formatNote } from '../runtime/weight_formats.ts';
import type { ChannelMap, MatrixOptions } from '../runtime/weights.ts';
import type { Builder, Parameter } from './builder.ts';
import * as registers from './conv2d_registers.ts';
import { winograd } from './conv2d_winograd.ts';
import { type ConvolutionCall, convolutionCost, type StridedGradientCall } from './convolution_call.ts';
import * as linear from './linear.ts';
import { subgroupMatrixVariants } from './subgroup_matrix_variants.ts';
import { stagedConvolution } from './workgroup_tiles.ts';
import { workgroupVariants } from './workgroup_variants.ts';

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
  const bias = b.weights.vector(`${name}.bias`);
  const y = b.graph.activation(name, shape(spec, x.shape));
  const { kernel, stride } = spec;
  const matrix = (given: MatrixOptions) => b.weights.matrix(`${name}.weight`, { inMap, ...given });
  b.graph.append({
    name: `${name} conv2d`,
    inputs: residual ? [x, residual] : [x],
    outputs: [y],
    ...variantsOf(b.graph, CONVOLUTIONS, { kernel, stride, x, bias, residual, y, weights: (o) => matrix({ ...o }) }),
    adjoint: ({ outputs: [dy], needs, take }) => {
      if (!needs[0]) return [null, dy!];
      const before = take(0);
      const dx = b.graph.activation(`${name} gradient`, x.shape);
      const transposed = (o?: MatrixOptions) => matrix({ ...o, transpose: true, flip: stride === 1 });
      const ways =
        stride === 1
          ? variantsOf(b.graph, CONVOLUTIONS, {
              kernel,
              stride,
              x: dy!,
              bias: null,
              residual: before,
              y: dx,
              weights: transposed,
            })
          : variantsOf(b.graph, STRIDED_GRADIENTS, { kernel, dy: dy!, residual: before, dx, weights: transposed });
      b.graph.append({
        name: `${name} conv2d gradient`,
        inputs: before ? [dy!, before] : [dy!],
        outputs: [dx],
        ...ways,
      });
      return [dx, dy!];
    },
  });
  return y;
}

const CONVOLUTIONS: Family<ConvolutionCall> = {
  kind: 'conv2d',
  variants: [
    ...registers.forward,
    ...winograd,
    ...workgroupVariants(stagedConvolution),
    ...subgroupMatrixVariants(stagedConvolution),
  ],
  shape: ({ kernel, stride, x, y, weights }) => ({
    form: `${kernel}x${kernel} stride ${stride}${formatNote(weights())}`,
    sizes: [y.shape.n, y.shape.h, y.shape.w, x.shape.c, y.shape.c],
  }),
};

const STRIDED_GRADIENTS: Family<StridedGradientCall> = {
  kind: 'conv2d_gradient_strided',
  variants: registers.stridedGradient,
  shape: ({ kernel, dy, dx, weights }) => ({
    form: `${kernel}x${kernel}${formatNote(weights())}`,
    sizes: [dx.shape.n, dx.shape.h, dx.shape.w, dy.shape.c, dx.shape.c],
  }),
};

/** Floating-point operations and bytes of one forward pass; the input gradient costs the same. */
export function cost(spec: Conv2d, x: Shape): Cost {
  const y = shape(spec, x);
  return convolutionCost(spec.kernel, x, y, y.n * y.h * y.w);
}
