/**
 * @file Products with arithmetic in float16 on tiles in workgroup memory, for adapters with the feature "shader-f16". About
 * a thousand times less exact than float32 (shaders/conv2d/workgroup_f16.wgsl), so taken only where a runtime is given the
 * accuracy "reduced". Weights lie on the device in float16, whatever they are stored in.
 */
import workgroupF16 from '../../shaders/conv2d/workgroup_f16.wgsl';
import type { Graph, Target } from '../runtime/graph.ts';
import type { KernelCall } from '../runtime/shader.ts';
import type { ConvolutionCall } from './convolution_call.ts';
import {
  lowerStaged,
  type StagedCall,
  WORKGROUP_TILES,
  type WorkgroupTile,
  workgroupCost,
  workgroupFits,
} from './workgroup_tiles.ts';

export const F16_TILES: readonly WorkgroupTile[] = WORKGROUP_TILES.filter(({ name }) => name !== '64x32');

/** Of the float32 kernel's cost: GPUs with float16 units gain 1.15 to 1.5, software adapters emulate it. */
const COST = { cpu: 8, gpu: 0.75 } as const;

export const f16Fits = (target: Target, tile: WorkgroupTile, call: StagedCall): boolean =>
  target.features?.has('shader-f16') === true && workgroupFits(tile, call);

export const f16Cost = (target: Target, tile: WorkgroupTile, call: StagedCall): number =>
  COST[target.adapter] * workgroupCost(target, tile, call);

export const lowerF16 = (
  graph: Graph,
  tile: WorkgroupTile,
  call: StagedCall,
  weights: ConvolutionCall['weights'],
): KernelCall[] =>
  lowerStaged(graph, tile, { ...call, shader: workgroupF16, weights: () => weights({ format: 'f16' }) });
