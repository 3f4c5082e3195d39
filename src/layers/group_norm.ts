/**
 * @file GroupNorm, optionally with SiLU after it and with an embedding inside it, as ADM's residual blocks use it.
 *
 *   plain        y = (x - mean) * rstd * gamma + beta
 *   scale-shift  y = ((x - mean) * rstd * gamma + beta) * (1 + scale) + shift
 *   add          y = plain of (x + e)
 *
 * Saved for the backward pass: x and one affine map a channel. There are two ways to the same result:
 * group_norm_segments.ts cuts maps into segments, for many invocations; group_norm_spans.ts has one invocation for whole
 * groups, for few dispatches.
 */

import { OptionError } from '../runtime/errors.ts';
import type { Graph, Variants } from '../runtime/graph.ts';
import {
  type Activation,
  activationBytes,
  type PackedWeights,
  quads,
  type Shape,
  type Tensor,
} from '../runtime/resources.ts';
import type { Cost, KernelCall } from '../runtime/shader.ts';
import type { Builder, Parameter } from './builder.ts';
import { segments } from './group_norm_segments.ts';
import { spanReads, spans } from './group_norm_spans.ts';

export interface GroupNorm {
  readonly channels: number;
  readonly groups: number;
  readonly eps: number;
  /** Applies SiLU to the result. */
  readonly silu: boolean;
}

/** guided-diffusion's `normalization`: 32 groups, eps 1e-5 unless a model says otherwise. */
export const normalization = (channels: number, silu: boolean, eps = 1e-5): GroupNorm => ({
  channels,
  groups: 32,
  eps,
  silu,
});

/** The embedding of a block: channels [offset, offset + 2C) or [offset, offset + C) of a tensor with h = w = 1. */
export interface Embedding {
  readonly tensor: Activation;
  readonly offset: number;
  /** Scale and shift after the norm (2C channels), or an addend before it (C channels). */
  readonly mode: 'scale-shift' | 'add';
}

/** One norm in a graph: what it is, and the tensors that all ways read and write. */
export interface GroupNormCall {
  readonly spec: GroupNorm;
  readonly name: string;
  readonly x: Activation;
  readonly y: Activation;
  readonly gamma: PackedWeights;
  readonly beta: PackedWeights;
  readonly embedding: Embedding | null;
  /** [N, 4, C padded]: center, factor, offset and rstd^2 of each channel. */
  readonly coefficients: Tensor;
}

/** A gradient of it. */
export interface GroupNormGradient {
  readonly dy: Activation;
  /** Null where only the embedding's gradient is wanted. */
  readonly dx: Activation | null;
  /** Added to dx. */
  readonly residual: Activation | null;
  readonly dEmbedding: Activation | null;
}

/** A way to compute it: the dispatches forward, and those of the gradient. */
export interface GroupNormWay {
  forward(graph: Graph, call: GroupNormCall): readonly KernelCall[];
  backward(graph: Graph, call: GroupNormCall, gradient: GroupNormGradient): readonly KernelCall[];
}

export function parameters({ channels }: GroupNorm, name: string): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [channels] },
    { name: `${name}.bias`, shape: [channels] },
  ];
}

const WAYS: Readonly<Record<NonNullable<Variants['groupNorm']>, GroupNormWay>> = { segments, spans };

export function forward(
  b: Builder,
  spec: GroupNorm,
  name: string,
  x: Activation,
  embedding: Embedding | null = null,
): Activation {
  const { channels, groups } = spec;
  if (x.shape.c !== channels) throw new Error(`${name} takes ${channels} channels, found ${x.shape.c}`);
  if (channels % groups !== 0)
    throw new OptionError(`${name}: ${channels} channels do not divide into ${groups} groups`);
  const gamma = b.weights.vector(`${name}.weight`);
  const beta = b.weights.vector(`${name}.bias`);
  const coefficients = b.graph.array(`${name} coefficients`, x.shape.n * 4 * quads(channels) * 4);
  const y = b.graph.activation(name, x.shape);
  const call: GroupNormCall = { spec, name, x, y, gamma, beta, embedding, coefficients };
  const way = wayFor(b.graph, call);
  b.graph.append({
    name: `${name} group_norm`,
    inputs: embedding ? [x, embedding.tensor] : [x],
    outputs: [y, coefficients],
    lower: () => way.forward(b.graph, call),
    adjoint: ({ outputs: [dy], needs, take }) => {
      const dEmbedding = embedding !== null && needs[1] ? embeddingGradient(b, spec, name, embedding) : null;
      const residual = needs[0] ? take(0) : null;
      const dx = needs[0] ? b.graph.activation(`${name} gradient`, x.shape) : null;
      b.graph.append({
        name: `${name} group_norm gradient`,
        inputs: [dy!, x, coefficients, ...(residual ? [residual] : [])],
        outputs: [dx, dEmbedding].filter((tensor) => tensor !== null),
        lower: () =>
          // The spans' kernel makes no gradient of the embedding.
          (dEmbedding ? segments : way).backward(b.graph, call, { dy: dy!, dx, residual, dEmbedding }),
      });
      return [dx, dEmbedding];
    },
  });
  return y;
}

/** Above so many reads an invocation, segments occupy more cores than spans save in dispatches. */
const MAX_SPAN_READS = 1024;

/** Spans on a CPU, as long as an invocation has little to read; on a GPU they would leave most of it idle. */
function wayFor({ target }: Graph, call: GroupNormCall): GroupNormWay {
  const forced = target.variants?.groupNorm;
  if (forced !== undefined) return WAYS[forced];
  return target.adapter === 'cpu' && spanReads(call) <= MAX_SPAN_READS ? spans : segments;
}

function embeddingGradient(b: Builder, { channels }: GroupNorm, name: string, embedding: Embedding): Activation {
  const width = embedding.mode === 'scale-shift' ? 2 * channels : channels;
  const { tensor, offset } = embedding;
  if (offset !== 0 || tensor.shape.c !== width || channels % 4 !== 0) {
    throw new Error(
      `${name}: the gradient of a shared embedding projection is not implemented; give each block its own`,
    );
  }
  return b.graph.activation(`${name} embedding gradient`, tensor.shape);
}

/** Floating-point operations and bytes of one forward pass. */
export function cost({ silu }: GroupNorm, x: Shape): Cost {
  const bytes = activationBytes(x);
  return { flops: (bytes / 4) * (silu ? 12 : 6), bytes: 3 * bytes };
}
