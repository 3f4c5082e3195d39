/**
 * @file Matrix product with a tile of rows and channels in the registers of each invocation, without a barrier.
 */
import linearForward from '../../shaders/linear/forward.wgsl';
import { pixels, quads } from '../runtime/resources.ts';
import { kernelCall } from '../runtime/shader.ts';
import type { Variant } from '../runtime/variants.ts';
import { type ProductCall, wholeProduct } from './product_call.ts';
import {
  type RegisterTile,
  registerFits,
  registerTileCost,
  registerTileNote,
  THREADS,
  tileGrid,
} from './register_tiles.ts';

const TILES: readonly RegisterTile[] = [1, 4, 8, 16].flatMap((run) => [1, 2, 4].map((own) => ({ run, quads: own })));

export const registers: readonly Variant<ProductCall>[] = TILES.map((tile) => ({
  name: `registers ${tile.run}x${tile.quads}`,
  accuracy: () => 'float32',
  note: registerTileNote(tile),

  // A single row is for embeddings: nothing else is worth its loads.
  fits: (target, { x, y }) =>
    tile.run === 1 ? pixels(x.shape) <= 2 : registerFits(target, tile, pixels(x.shape), quads(y.shape.c)),

  cost: (target, { x, y }) =>
    registerTileCost(target, tile, {
      rows: 1,
      columns: pixels(x.shape),
      outQuads: quads(y.shape.c),
      bodies: quads(x.shape.c),
      loads: tile.run + 4 * tile.quads,
      multiplyAdds: 4 * tile.run * tile.quads,
    }),

  lower: (_graph, call) => [
    kernelCall(linearForward, {
      ...wholeProduct(call),
      switches: THREADS,
      tiles: { RUN: tile.run, QUADS: tile.quads },
      grid: tileGrid(tile, 1, pixels(call.x.shape), quads(call.y.shape.c)),
    }),
  ],
}));
