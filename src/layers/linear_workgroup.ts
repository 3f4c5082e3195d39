/**
 * @file Matrix product with tiles staged in workgroup memory, and the same split over the input channels, for few rows with
 * many channels. For GPUs.
 */
import type { Variant } from '../runtime/variants.ts';
import type { ProductCall } from './product_call.ts';
import { sumPartsCost } from './sum_parts.ts';
import {
  lowerStaged,
  PARTS,
  partsFit,
  stagedProduct,
  WORKGROUP_TILES,
  workgroupCost,
  workgroupFits,
} from './workgroup_tiles.ts';

export const workgroup: readonly Variant<ProductCall>[] = WORKGROUP_TILES.map((tile) => ({
  name: `workgroup ${tile.name}`,
  accuracy: 'float32',
  note: 'tiles in workgroup memory: for GPUs',
  fits: (_target, call) => workgroupFits(tile, stagedProduct(call)),
  cost: (target, call) => workgroupCost(target, tile, stagedProduct(call)),
  lower: (graph, call) => lowerStaged(graph, tile, stagedProduct(call)),
}));

/** `split 32x32x4`: the smallest tile, and four parts. */
export const split: readonly Variant<ProductCall>[] = PARTS.map((parts) => ({
  name: `split ${WORKGROUP_TILES[0]!.name}x${parts}`,
  accuracy: 'float32',
  note: 'input channels split over workgroups: for few rows on GPUs',
  fits: (_target, call) => partsFit(WORKGROUP_TILES[0]!, stagedProduct(call), parts),
  cost: (target, call) =>
    workgroupCost(target, WORKGROUP_TILES[0]!, stagedProduct(call), parts) + sumPartsCost(target, parts, call.y.shape),
  lower: (graph, call) => lowerStaged(graph, WORKGROUP_TILES[0]!, stagedProduct(call), parts),
}));
