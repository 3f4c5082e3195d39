/**
 * @file What the ways to compute attention are given, and what each of them is.
 */
import type { Graph } from '../runtime/graph.ts';
import type { Activation, Tensor } from '../runtime/resources.ts';
import type { KernelCall } from '../runtime/shader.ts';
import type { Way } from '../runtime/variants.ts';

/** One attention in a graph: its sizes, and the tensors that all ways read and write. */
export interface AttentionCall {
  readonly images: number;
  readonly tokens: number;
  /** How many tokens, from the first on, are answered. */
  readonly queries: number;
  readonly heads: number;
  readonly headQuads: number;
  /** 1 / sqrt(width). */
  readonly scale: number;
  readonly qkv: Activation;
  readonly out: Activation;
  /** [N, heads, queries] of f32. */
  readonly lse: Tensor;
}

/** The gradient of one: `dOut` of the output's shape, `dQkv` of the input's. */
export interface AttentionGradientCall extends AttentionCall {
  readonly dOut: Activation;
  readonly dQkv: Activation;
}

/** A way to compute it: the dispatches forward, and those of the gradient. */
export interface AttentionWay extends Way<AttentionCall> {
  forward(graph: Graph, call: AttentionCall): readonly KernelCall[];
  backward(graph: Graph, call: AttentionGradientCall): readonly KernelCall[];
}

/** Floating-point operations of one product of the scores' size. */
export const productFlops = ({ images, heads, queries, tokens, headQuads }: AttentionCall): number =>
  2 * images * heads * queries * tokens * headQuads * 4;
