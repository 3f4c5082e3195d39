/**
 * @file Timestep embedding, computed on the host, and class embedding.
 */
import addLabelShader from '../../shaders/embedding/add_label.wgsl';
import type { Activation, Tensor } from '../runtime/resources.ts';
import { quads } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import type { Builder } from './builder.ts';

/**
 * Sinusoidal embedding of timesteps: cosines first, then sines, frequencies exp(-ln(maxPeriod) * i / half), and a zero
 * column where `dim` is odd. Computed in double precision: in float32 it is off by 4e-5 near t = 1000.
 *
 * @param timesteps may be fractional
 * @param shift taken off `half` in the frequencies: 1 in the models of Ho et al. 2020
 * @returns [timesteps.length, dim]
 */
export function timestepEmbedding(
  timesteps: readonly number[],
  dim: number,
  maxPeriod = 10000,
  shift = 0,
): Float32Array {
  const half = Math.floor(dim / 2);
  const result = new Float32Array(timesteps.length * dim);
  timesteps.forEach((t, row) => {
    for (let i = 0; i < half; i++) {
      const angle = t * Math.exp((-Math.log(maxPeriod) * i) / (half - shift));
      result[row * dim + i] = Math.cos(angle);
      result[row * dim + half + i] = Math.sin(angle);
    }
  });
  return result;
}

/**
 * x + table[labels], a row for each image.
 *
 * @param x [N, C], h = w = 1
 * @param table name of the parameter [classes, C]
 * @param labels N words; the caller checks that each is below the number of classes
 */
export function addLabel(b: Builder, table: string, x: Activation, labels: Tensor): Activation {
  const y = b.graph.activation(table, x.shape);
  const rows = b.weights.table(table);
  b.graph.append({
    name: table,
    inputs: [x, labels],
    outputs: [y],
    lower: () => [
      kernelCall(addLabelShader, {
        bind: { x, rows, labels, y },
        sizes: { IMAGES: x.shape.n, CHANNEL_QUADS: quads(x.shape.c) },
        grid: lineGrid(x.bytes / 16, 64),
        cost: { flops: x.bytes / 4, bytes: 3 * x.bytes },
      }),
    ],
    adjoint: ({ outputs: [dy] }) => [dy!, null],
  });
  return y;
}
