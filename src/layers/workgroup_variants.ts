/**
 * @file The variants with tiles staged in workgroup memory, for convolution and for linear layers alike: whole, split over
 * the input channels for outputs with too few tiles to fill a GPU, and with arithmetic in float16.
 *
 * Float16 is about a thousand times less exact than float32 (shaders/conv2d/workgroup_f16.wgsl), so it is taken only where a
 * runtime is given the accuracy "reduced". Its weights lie on the device in float16, whatever they are stored in.
 */
import workgroupF16 from '../../shaders/conv2d/workgroup_f16.wgsl';
import { hasFeature } from '../runtime/graph.ts';
import type { Variant } from '../runtime/variants.ts';
import { sumPartsCost } from './sum_parts.ts';
import {
  lowerStaged,
  PARTS,
  partsFit,
  type StagedCall,
  WORKGROUP_TILES,
  workgroupCost,
  workgroupFits,
} from './workgroup_tiles.ts';

/** Of the float32 kernel's cost: others gained 1.15 to 1.5 on GPUs, an H200 nothing; software adapters emulate it. */
const F16_COST = { cpu: 8, gpu: 0.75 } as const;

/** @param staged the call as the shader sees it */
export function workgroupVariants<Call>(staged: (call: Call) => StagedCall): readonly Variant<Call>[] {
  const [smallest] = WORKGROUP_TILES;
  const whole = WORKGROUP_TILES.map(
    (tile): Variant<Call> => ({
      name: `workgroup ${tile.name}`,
      accuracy: () => 'float32',
      note: 'tiles in workgroup memory: for GPUs',
      fits: (target, call) => workgroupFits(target, tile, staged(call)),
      cost: (target, call) => workgroupCost(target, tile, staged(call)),
      lower: (graph, call) => lowerStaged(graph, tile, staged(call)),
    }),
  );
  // `split 32x32x4`: the smallest tile, and four parts.
  const split = PARTS.map(
    (parts): Variant<Call> => ({
      name: `split ${smallest.name}x${parts}`,
      accuracy: () => 'float32',
      note: 'input channels split over workgroups: for small maps and few rows on GPUs',
      fits: (_target, call) => partsFit(smallest, staged(call), parts),
      cost: (target, call) =>
        workgroupCost(target, smallest, staged(call), parts) + sumPartsCost(target, parts, staged(call).to),
      lower: (graph, call) => lowerStaged(graph, smallest, staged(call), parts),
    }),
  );
  const f16 = WORKGROUP_TILES.map(
    (tile): Variant<Call> => ({
      name: `f16 ${tile.name}`,
      accuracy: () => 'reduced',
      note: 'float16 arithmetic: for GPUs that have it',
      fits: (target, call) => hasFeature(target, 'shader-f16') && workgroupFits(target, tile, staged(call)),
      cost: (target, call) => F16_COST[target.adapter] * workgroupCost(target, tile, staged(call)),
      lower: (graph, call) => {
        const whole = staged(call);
        const weights = () => whole.weights({ format: 'f16' });
        return lowerStaged(graph, tile, { ...whole, shader: workgroupF16, weights });
      },
    }),
  );
  return [...whole, ...split, ...f16];
}
