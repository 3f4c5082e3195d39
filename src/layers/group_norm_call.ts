/**
 * @file What the ways to compute GroupNorm are given, and what each of them is.
 */
import type { Graph } from '../runtime/graph.ts';
import { type Activation, type PackedWeights, quads, type Tensor } from '../runtime/resources.ts';
import type { KernelCall } from '../runtime/shader.ts';
import type { Way } from '../runtime/variants.ts';

/** The embedding of a block: channels [offset, offset + 2C) or [offset, offset + C) of a tensor with h = w = 1. */
export interface Embedding {
  readonly tensor: Activation;
  readonly offset: number;
  /** Scale and shift after the norm (2C channels), or an addend before it (C channels). */
  readonly mode: 'scale-shift' | 'add';
}

/** One norm in a graph: what it is, and the tensors that all ways read and write. */
export interface GroupNormCall {
  readonly name: string;
  readonly groups: number;
  readonly eps: number;
  readonly silu: boolean;
  readonly x: Activation;
  readonly y: Activation;
  readonly gamma: PackedWeights;
  readonly beta: PackedWeights;
  readonly embedding: Embedding | null;
  /** [N, 4, C padded]: center, factor, offset and rstd^2 of each channel. */
  readonly coefficients: Tensor;
  /** Of y only the mean of each 2 x 2 block is wanted: it is made by `applyDown`, from x and the coefficients. */
  readonly averaged: boolean;
}

/** The gradient of one. */
export interface GroupNormGradientCall extends GroupNormCall {
  readonly dy: Activation;
  /** Null where only the embedding's gradient is wanted. */
  readonly dx: Activation | null;
  /** Added to dx. */
  readonly residual: Activation | null;
  readonly dEmbedding: Activation | null;
}

/** A way to compute it: the dispatches forward, and those of the gradient. */
export interface GroupNormWay extends Way<GroupNormCall> {
  /** Whether it makes the gradient of an embedding too. */
  readonly embeddingGradient: boolean;
  forward(graph: Graph, call: GroupNormCall): readonly KernelCall[];
  backward(graph: Graph, call: GroupNormGradientCall): readonly KernelCall[];
}

/** EMBEDDING of the shaders. */
export const EMBEDDING_MODES = { 'scale-shift': 1, add: 2 } as const;

export const embeddingSizes = ({ embedding }: GroupNormCall) => ({
  EMBEDDING_STRIDE: embedding ? quads(embedding.tensor.shape.c) * 4 : 0,
  EMBEDDING_OFFSET: embedding?.offset ?? 0,
});

/**
 * What costs are reckoned with: invocations at once, a load of a quad of the map, a load of one number that a dispatch before
 * has just written, a dispatch, a barrier. On a CPU for two cores, as measured on SwiftShader, where a dispatch takes 20 us. On a GPU
 * estimated: lanes are many, a load of the map is waited for, and what was just written is in a cache.
 */
export const COSTS = {
  cpu: { lanes: 8, load: 8, number: 4, dispatch: 2300, barrier: 5000 },
  gpu: { lanes: 2 ** 16, load: 64, number: 8, dispatch: 1000, barrier: 20 },
} as const;
