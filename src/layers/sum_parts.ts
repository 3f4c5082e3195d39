/**
 * @file The second step of a product whose sum was split over the input channels: parts, bias and residual added up, always
 * in the same order.
 */
import sumPartsShader from '../../shaders/conv2d/sum_parts.wgsl';
import type { Target } from '../runtime/graph.ts';
import { activationBytes, type PackedWeights, pixels, quads, type Shape, type Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import { DISPATCH_COST, GPU_LANES, loadCost } from './register_tiles.ts';

export interface PartsCall {
  /** [parts, pixels, quads] of vec4f. */
  readonly partial: Tensor;
  readonly parts: number;
  readonly bias: PackedWeights | null;
  /** What is stored of the residual: with `shift` 1 at half the size. */
  readonly residual: { readonly tensor: Tensor; readonly shift: 0 | 1 } | null;
  readonly y: Tensor;
  /** What y is as an image. */
  readonly to: Shape;
}

export function sumParts({ partial, parts, bias, residual, y, to }: PartsCall): KernelCall {
  const vectors = pixels(to) * quads(to.c);
  return kernelCall(sumPartsShader, {
    bind: { parts: partial, bias, residual: residual?.tensor ?? null, y },
    sizes: {
      VECTORS: vectors,
      OUT_HEIGHT: to.h,
      OUT_WIDTH: to.w,
      OUT_QUADS: quads(to.c),
      PARTS: parts,
      BIAS: Number(bias !== null),
      RESIDUAL: Number(residual !== null),
      RESIDUAL_SHIFT: residual?.shift ?? 0,
    },
    grid: lineGrid(vectors, 64),
    cost: { flops: 4 * vectors * parts, bytes: partial.bytes + activationBytes(to), multiplyAdds: 0 },
  });
}

/** What it should cost, in the units of the products it follows. */
export function sumPartsCost(target: Target, parts: number, to: Shape): number {
  const vectors = pixels(to) * quads(to.c);
  const lanes = target.adapter === 'gpu' ? Math.max(vectors, GPU_LANES) : vectors;
  return DISPATCH_COST[target.adapter] + lanes * (parts + 2) * loadCost(target);
}
