/**
 * @file What the variants of a matrix product are given, and what the work costs at least.
 */
import { type Activation, type PackedWeights, pixels, quads } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import type { KernelLayout } from '../runtime/weights.ts';

/** One product with every pixel's channels: a layer's forward pass, or the input gradient of one. */
export interface ProductCall {
  readonly x: Activation;
  readonly bias: PackedWeights | null;
  readonly residual: Activation | null;
  readonly y: Activation;
  /** The matrix, in the layout that a variant reads. */
  weights(layout?: KernelLayout): PackedWeights;
}

/** What a kernel that makes a whole product, bias and residual included, is given. */
export function wholeProduct({ x, bias, residual, y, weights }: ProductCall) {
  const rows = pixels(x.shape);
  return {
    bind: { x, weights: weights(), bias, residual, y },
    sizes: {
      ROWS: rows,
      IN_QUADS: quads(x.shape.c),
      OUT_QUADS: quads(y.shape.c),
      BIAS: Number(bias !== null),
      RESIDUAL: Number(residual !== null),
    },
    cost: productCost(rows, x.shape.c, y.shape.c),
  };
}

export function productCost(rows: number, ins: number, outs: number): Cost {
  return { flops: 2 * rows * ins * outs, bytes: 4 * (rows * (ins + outs) + ins * outs) };
}
