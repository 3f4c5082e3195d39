/**
 * @file Convolution with tiles staged in workgroup memory, and the same split over the input channels, for small maps with
 * many channels, whose output alone has too few tiles to fill a GPU. For GPUs.
 */
import type { Variant } from '../runtime/variants.ts';
import type { ConvolutionCall } from './convolution_call.ts';
import { sumPartsCost } from './sum_parts.ts';
import {
  lowerStaged,
  PARTS,
  partsFit,
  stagedConvolution,
  WORKGROUP_TILES,
  workgroupCost,
  workgroupFits,
} from './workgroup_tiles.ts';

export const workgroup: readonly Variant<ConvolutionCall>[] = WORKGROUP_TILES.map((tile) => ({
  name: `workgroup ${tile.name}`,
  accuracy: 'float32',
  note: 'tiles in workgroup memory: for GPUs',
  fits: (_target, call) => workgroupFits(tile, stagedConvolution(call)),
  cost: (target, call) => workgroupCost(target, tile, stagedConvolution(call)),
  lower: (graph, call) => lowerStaged(graph, tile, stagedConvolution(call)),
}));

/** `split 32x32x4`: the smallest tile, and four parts. */
export const split: readonly Variant<ConvolutionCall>[] = PARTS.map((parts) => ({
  name: `split ${WORKGROUP_TILES[0]!.name}x${parts}`,
  accuracy: 'float32',
  note: 'input channels split over workgroups: for small maps on GPUs',
  fits: (_target, call) => partsFit(WORKGROUP_TILES[0]!, stagedConvolution(call), parts),
  cost: (target, call) =>
    workgroupCost(target, WORKGROUP_TILES[0]!, stagedConvolution(call), parts) +
    sumPartsCost(target, parts, call.y.shape),
  lower: (graph, call) => lowerStaged(graph, WORKGROUP_TILES[0]!, stagedConvolution(call), parts),
}));
