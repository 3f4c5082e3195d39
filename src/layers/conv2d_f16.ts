/** @file Convolution with arithmetic in float16; see workgroup_f16.ts. */
import type { Variant } from '../runtime/variants.ts';
import type { ConvolutionCall } from './convolution_call.ts';
import { F16_TILES, f16Cost, f16Fits, lowerF16 } from './workgroup_f16.ts';
import { stagedConvolution } from './workgroup_tiles.ts';

export const f16: readonly Variant<ConvolutionCall>[] = F16_TILES.map((tile) => ({
  name: `f16 ${tile.name}`,
  accuracy: 'reduced',
  note: 'float16 arithmetic: for GPUs that have it',
  fits: (target, call) => f16Fits(target, tile, stagedConvolution(call)),
  cost: (target, call) => f16Cost(target, tile, stagedConvolution(call)),
  lower: (graph, call) => lowerF16(graph, tile, stagedConvolution(call), call.weights),
}));
