/**
 * @file What a kernel may be bound to. All of these are values that describe data; buffers exist only in a plan.
 *
 * Activations are stored [N, H, W, ceil(C / 4)] of vec4f: channels last, padded with zeros to a multiple of four. Every
 * kernel keeps the padding at zero, so that a reader never has to mask it. The public interface is NCHW.
 */
import type { UniformBlock } from './shader.ts';
import type { Packing, WeightShapes } from './weights.ts';

/** Logical size of an activation: images, rows, columns, channels. A vector per image has h = w = 1. */
export interface Shape {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  readonly c: number;
}

/** An activation, or an intermediate with a layout of its own (`shape` null, described where it is made). */
export interface Tensor {
  readonly kind: 'tensor';
  readonly id: number;
  /** Where it comes from, for error messages and traces. */
  readonly name: string;
  readonly shape: Shape | null;
  readonly bytes: number;
}

export interface Activation extends Tensor {
  readonly shape: Shape;
  /** What it is made of, for kernels that can read that instead: if all readers can, the tensor itself is not made. */
  readonly origin?: Origin;
}

export type Origin = Upsampled | Normalised | Concatenated;

/** Every pixel of `of` four times, in a block of two by two. */
export interface Upsampled {
  readonly kind: 'upsample';
  readonly of: Activation;
}

/** Every value of `of` through its channel's affine map, then SiLU if `silu`: a GroupNorm whose statistics are known. */
export interface Normalised {
  readonly kind: 'normalised';
  readonly of: Activation;
  /** [N, 4, C padded]: center, factor and offset of each channel, and what only the gradient needs. */
  readonly coefficients: Tensor;
  readonly silu: boolean;
  /** Whether the tensor is made by a dispatch of its own, which is spared if nobody asks for it. */
  separate(): boolean;
}

/** The channels of one tensor, and after them those of another: joined_reads.ts has kernels read these. */
export interface Concatenated {
  readonly kind: 'concat';
  readonly parts: readonly [Activation, Activation];
}

/** What a kernel reads that can enlarge by itself: a tensor, and by how many halvings its sides are shorter. */
export const stored = (tensor: Activation): { readonly tensor: Activation; readonly shift: 0 | 1 } =>
  tensor.origin?.kind === 'upsample' ? { tensor: tensor.origin.of, shift: 1 } : { tensor, shift: 0 };

/** A uniform block whose values the host sets between runs. */
export interface Uniform {
  readonly kind: 'uniform';
  readonly id: number;
  readonly name: string;
  readonly block: UniformBlock;
}

/** Parameters in the layout a kernel wants them in. Equal keys of one source are packed once. */
export interface PackedWeights {
  readonly kind: 'weights';
  /** The model they belong to: `Weights` where there are values, bare `WeightShapes` where only a plan is costed. */
  readonly source: WeightShapes;
  readonly key: string;
  readonly bytes: number;
  readonly packing: Packing;
}

/** A constant table, made on the host. Equal names hold equal data. */
export interface Table {
  readonly kind: 'table';
  readonly name: string;
  readonly data: Uint32Array | Int32Array | Float32Array;
}

export type Resource = Tensor | Uniform | PackedWeights | Table;

/** The number of vec4f that hold `channels` channels. */
export const quads = (channels: number): number => Math.ceil(channels / 4);

export const pixels = (shape: Shape): number => shape.n * shape.h * shape.w;

export const activationBytes = (shape: Shape): number => pixels(shape) * quads(shape.c) * 16;

export const sameShape = (a: Shape, b: Shape): boolean => a.n === b.n && a.h === b.h && a.w === b.w && a.c === b.c;

export const describeShape = ({ n, c, h, w }: Shape): string => `[${n}, ${c}, ${h}, ${w}]`;
