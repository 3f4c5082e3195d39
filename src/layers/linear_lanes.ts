/**
 * @file Matrix product with few rows, such as the embeddings of a batch: all invocations of a workgroup share the sum over
 * the input channels, and a second dispatch adds what they found. Neighbours read neighbouring blocks of the matrix, each
 * once, so the matrix streams through at the speed of memory.
 */
import linearLanes from '../../shaders/linear/lanes.wgsl';
import { pixels, quads } from '../runtime/resources.ts';
import { kernelCall } from '../runtime/shader.ts';
import type { Variant } from '../runtime/variants.ts';
import { type ProductCall, productCost } from './product_call.ts';
import { GPU_LANES, loadCost } from './register_tiles.ts';
import { sumParts, sumPartsCost } from './sum_parts.ts';

/** More rows than this are no few. */
export const MOST_ROWS = 16;

/** Rows of an invocation, and invocations that share a sum. */
const TILES = [1, 4].flatMap((run) => [8, 32].map((lanes) => ({ run, lanes })));

export const lanes: readonly Variant<ProductCall>[] = TILES.map((tile) => ({
  name: `lanes ${tile.run}x${tile.lanes}`,
  accuracy: () => 'float32',
  note: 'a sum shared by neighbours: for few rows',

  fits: (_target, { x }) =>
    pixels(x.shape) <= MOST_ROWS && tile.run <= 2 * pixels(x.shape) && tile.lanes <= quads(x.shape.c),

  cost: (target, { x, y }) => {
    const rows = pixels(x.shape);
    const invocations = Math.ceil(rows / tile.run) * quads(y.shape.c) * tile.lanes;
    const one = Math.ceil(quads(x.shape.c) / tile.lanes) * (loadCost(target) * (4 + tile.run) + 4 * tile.run);
    const product = one * (target.adapter === 'gpu' ? Math.max(invocations, GPU_LANES) : invocations);
    return product + sumPartsCost(target, tile.lanes, y.shape);
  },

  lower(graph, { x, bias, residual, y, weights }) {
    const rows = pixels(x.shape);
    const outQuads = quads(y.shape.c);
    const partial = graph.array('parts of a product', 4 * tile.lanes * rows * outQuads);
    return [
      kernelCall(linearLanes, {
        bind: { x, weights: weights(), parts: partial },
        sizes: { ROWS: rows, IN_QUADS: quads(x.shape.c), OUT_QUADS: outQuads, LANES: tile.lanes },
        tiles: { RUN: tile.run },
        grid: [Math.ceil((outQuads * tile.lanes) / 64), Math.ceil(rows / tile.run), 1],
        cost: productCost(rows, x.shape.c, y.shape.c),
      }),
      sumParts({
        partial,
        parts: tile.lanes,
        bias,
        residual: residual && { tensor: residual, shift: 0 },
        y,
        to: y.shape,
      }),
    ];
  },
}));
