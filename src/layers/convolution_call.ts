/**
 * @file What the variants of convolution are given, and what the work costs at least.
 */
import { type Activation, activationBytes, type PackedWeights, type Shape } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import type { KernelLayout } from '../runtime/weights.ts';

/** One convolution to be computed: a layer's forward pass, or the input gradient of one. */
export interface ConvolutionCall {
  readonly kernel: 1 | 3;
  readonly stride: 1 | 2;
  readonly x: Activation;
  readonly bias: PackedWeights | null;
  readonly residual: Activation | null;
  readonly y: Activation;
  /** The kernels, in the layout that a variant reads. */
  weights(layout?: KernelLayout): PackedWeights;
}

/** dx of a convolution at stride 2: `dy` is of the smaller size. The weights are transposed. */
export interface StridedGradientCall {
  readonly kernel: 1 | 3;
  readonly dy: Activation;
  readonly residual: Activation | null;
  readonly dx: Activation;
  weights(): PackedWeights;
}

/** @param outputs pixels that the kernel is applied at, over all images */
export function convolutionCost(kernel: number, x: Shape, y: Shape, outputs: number): Cost {
  const weights = kernel * kernel * x.c * y.c;
  return { flops: 2 * outputs * weights, bytes: activationBytes(x) + activationBytes(y) + 4 * weights };
}
