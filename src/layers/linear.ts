/**
 * @file Linear layer, and 1 x 1 convolution at stride 1: a matrix product with every pixel's channels.
 *
 *   y = W x + b (+ residual)          dx = W^T dy
 *
 * Saved for the backward pass: nothing.
 */
import { type Activation, activationBytes, pixels } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import { type Family, variantsOf } from '../runtime/variants.ts';
import { formatNote } from '../runtime/weight_formats.ts';
import type { ChannelMap, MatrixOptions } from '../runtime/weights.ts';
import type { Builder, Parameter } from './builder.ts';
import { lanes } from './linear_lanes.ts';
import { registers } from './linear_registers.ts';
import { shared } from './linear_shared.ts';
import { type ProductCall, productCost } from './product_call.ts';
import { subgroupMatrixVariants } from './subgroup_matrix_variants.ts';
import { stagedProduct } from './workgroup_tiles.ts';
import { workgroupVariants } from './workgroup_variants.ts';

export interface Linear {
  readonly in: number;
  readonly out: number;
  /** Trailing axes of length 1 in the stored weight: 0 for nn.Linear, 1 for a 1-D, 2 for a 2-D convolution. */
  readonly taps: 0 | 1 | 2;
}

export interface LinearOptions {
  /** Added to the result; its shape. */
  readonly residual?: Activation | null;
  /** Order and padding of the output and input channels, where they are not the checkpoint's. */
  readonly outMap?: ChannelMap | null;
  readonly inMap?: ChannelMap | null;
}

export function parameters({ in: ins, out, taps }: Linear, name: string): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [out, ins, ...Array<number>(taps).fill(1)] },
    { name: `${name}.bias`, shape: [out] },
  ];
}

/** @param name the parameters' prefix; several are stacked along the output channels */
export function forward(
  b: Builder,
  name: string | readonly string[],
  x: Activation,
  options: LinearOptions = {},
): Activation {
  const { residual = null, outMap = null, inMap = null } = options;
  const names = typeof name === 'string' ? [name] : name;
  const weightNames = names.map((n) => `${n}.weight`);
  const matrix = (given: MatrixOptions) => b.weights.matrix(weightNames, { outMap, inMap, ...given });
  const bias = b.weights.vector(
    names.map((n) => `${n}.bias`),
    outMap,
  );
  const out = outMap?.length ?? weightNames.reduce((sum, n) => sum + b.weights.shapeOf(n)[0]!, 0);
  const ins = inMap?.length ?? b.weights.shapeOf(weightNames[0]!)[1]!;
  if (x.shape.c !== ins) throw new Error(`${names[0]} takes ${ins} channels, found ${x.shape.c}`);
  const y = b.graph.activation(names[0]!, { ...x.shape, c: out });
  b.graph.append({
    name: `${names[0]} linear`,
    inputs: residual ? [x, residual] : [x],
    outputs: [y],
    ...variantsOf(b.graph, PRODUCTS, { x, bias, residual, y, weights: (o) => matrix({ ...o }) }),
    adjoint: ({ outputs: [dy], needs, take }) => {
      if (!needs[0]) return [null, dy!];
      const transposed = (o?: MatrixOptions) => matrix({ ...o, transpose: true });
      const before = take(0);
      const dx = b.graph.activation(`${names[0]} gradient`, x.shape);
      b.graph.append({
        name: `${names[0]} linear gradient`,
        inputs: before ? [dy!, before] : [dy!],
        outputs: [dx],
        ...variantsOf(b.graph, PRODUCTS, { x: dy!, bias: null, residual: before, y: dx, weights: transposed }),
      });
      return [dx, dy!];
    },
  });
  return y;
}

const PRODUCTS: Family<ProductCall> = {
  kind: 'linear',
  variants: [
    ...registers,
    ...lanes,
    ...shared,
    ...workgroupVariants(stagedProduct),
    ...subgroupMatrixVariants(stagedProduct),
  ],
  shape: ({ x, y, weights }) => ({
    form: `product${formatNote(weights())}`,
    sizes: [pixels(x.shape), x.shape.c, y.shape.c],
  }),
};

/** Floating-point operations and bytes of one forward pass; the input gradient costs the same. */
export function cost({ in: ins, out }: Linear, x: Activation): Cost {
  const { flops } = productCost(pixels(x.shape), ins, out);
  return { flops, bytes: activationBytes(x.shape) + activationBytes({ ...x.shape, c: out }) + 4 * ins * out };
}
