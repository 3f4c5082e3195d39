/**
 * @file Linear layer, and 1 x 1 convolution at stride 1: a matrix product with every pixel's channels.
 *
 *   y = W x + b (+ residual)          dx = W^T dy
 *
 * Saved for the backward pass: nothing.
 */
import linearForward from '../../shaders/linear/forward.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, activationBytes, type PackedWeights, pixels, quads } from '../runtime/resources.ts';
import { type Cost, type KernelCall, kernelCall } from '../runtime/shader.ts';
import type { ChannelMap } from '../runtime/weights.ts';
import type { Builder, Parameter } from './builder.ts';

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
  const weights = b.weights.matrix(weightNames, { outMap, inMap });
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
    lower: () => [product(b.graph, x, weights, bias, residual, y)],
    adjoint: ({ outputs: [dy], needs, take }) => {
      if (!needs[0]) return [null, dy!];
      const transposed = b.weights.matrix(weightNames, { outMap, inMap, transpose: true });
      const before = take(0);
      const dx = b.graph.activation(`${names[0]} gradient`, x.shape);
      b.graph.append({
        name: `${names[0]} linear gradient`,
        inputs: before ? [dy!, before] : [dy!],
        outputs: [dx],
        lower: () => [product(b.graph, dy!, transposed, null, before, dx)],
      });
      return [dx, dy!];
    },
  });
  return y;
}

function product(
  graph: Graph,
  x: Activation,
  weights: PackedWeights,
  bias: PackedWeights | null,
  residual: Activation | null,
  y: Activation,
): KernelCall {
  const rows = pixels(x.shape);
  const outQuads = quads(y.shape.c);
  const tiles = tile(graph, rows, outQuads);
  const threads = { THREADS_X: 16, THREADS_Y: 4 };
  return kernelCall(linearForward, {
    bind: { x, weights, bias, residual, y },
    sizes: {
      ROWS: rows,
      IN_QUADS: quads(x.shape.c),
      OUT_QUADS: outQuads,
      BIAS: Number(bias !== null),
      RESIDUAL: Number(residual !== null),
    },
    switches: threads,
    tiles,
    grid: [
      Math.ceil(Math.ceil(rows / tiles.RUN) / threads.THREADS_X),
      Math.ceil(Math.ceil(outQuads / tiles.QUADS) / threads.THREADS_Y),
      1,
    ],
    cost: productCost(rows, x.shape.c, y.shape.c),
  });
}

/** Larger tiles load less for each multiply-add; few rows leave nothing to tile. */
function tile({ target }: Graph, rows: number, outQuads: number): { RUN: number; QUADS: number } {
  const QUADS = outQuads === 1 ? 1 : 2;
  if (rows <= 2) return { RUN: 1, QUADS };
  return { RUN: target.adapter === 'cpu' && !target.slowCompiler && rows >= 64 ? 8 : 4, QUADS };
}

function productCost(rows: number, ins: number, outs: number): Cost {
  return { flops: 2 * rows * ins * outs, bytes: 4 * (rows * (ins + outs) + ins * outs) };
}

/** Floating-point operations and bytes of one forward pass; the input gradient costs the same. */
export function cost({ in: ins, out }: Linear, x: Activation): Cost {
  const { flops } = productCost(pixels(x.shape), ins, out);
  return { flops, bytes: activationBytes(x.shape) + activationBytes({ ...x.shape, c: out }) + 4 * ins * out };
}
