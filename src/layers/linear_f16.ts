/** @file Matrix product with arithmetic in float16; see workgroup_f16.ts. */
import type { Variant } from '../runtime/variants.ts';
import type { ProductCall } from './product_call.ts';
import { F16_TILES, f16Cost, f16Fits, lowerF16 } from './workgroup_f16.ts';
import { stagedProduct } from './workgroup_tiles.ts';

export const f16: readonly Variant<ProductCall>[] = F16_TILES.map((tile) => ({
  name: `f16 ${tile.name}`,
  accuracy: 'reduced',
  note: 'float16 arithmetic: for GPUs that have it',
  fits: (target, call) => f16Fits(target, tile, stagedProduct(call)),
  cost: (target, call) => f16Cost(target, tile, stagedProduct(call)),
  lower: (graph, call) => lowerF16(graph, tile, stagedProduct(call), call.weights),
}));
