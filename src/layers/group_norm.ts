/**
 * @file GroupNorm, optionally with SiLU after it and with an embedding inside it, as ADM's residual blocks use it.
 *
 *   plain        y = (x - mean) * rstd * gamma + beta
 *   scale-shift  y = ((x - mean) * rstd * gamma + beta) * (1 + scale) + shift
 *   add          y = plain of (x + e)
 *
 * Saved for the backward pass: x and one affine map a channel. Several ways lead to the same result:
 * group_norm_segments.ts cuts maps into segments, for many invocations; group_norm_workgroup.ts has a workgroup for whole
 * groups, group_norm_spans.ts one invocation, both for few dispatches.
 */

import { OptionError } from '../runtime/errors.ts';
import { type Activation, activationBytes, quads, type Shape } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import { type CallShape, familyOfWays, variantsOf } from '../runtime/variants.ts';
import type { Builder, Parameter } from './builder.ts';
import type { Embedding, GroupNormCall, GroupNormGradientCall, GroupNormWay } from './group_norm_call.ts';
import { applyDown, segments } from './group_norm_segments.ts';
import { spans } from './group_norm_spans.ts';
import { subgroups, workgroup } from './group_norm_workgroup.ts';
import { downsampled, downsampleGradient } from './resample.ts';

export type { Embedding } from './group_norm_call.ts';

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

export function parameters({ channels }: GroupNorm, name: string): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [channels] },
    { name: `${name}.bias`, shape: [channels] },
  ];
}

const WAYS: readonly GroupNormWay[] = [segments, spans, workgroup, subgroups];

const shapeFor =
  (form: string) =>
  ({ x: { shape }, groups, silu }: GroupNormCall): CallShape => ({
    form: silu ? `${form} silu` : form,
    sizes: [shape.n, shape.h * shape.w, shape.c, groups],
  });

const FORWARD = familyOfWays<GroupNormCall, GroupNormWay>({
  kind: 'group_norm',
  ways: WAYS,
  lower: (way, graph, call) => way.forward(graph, call),
  shape: shapeFor('forward'),
});
const GRADIENT = familyOfWays<GroupNormGradientCall, GroupNormWay>({
  kind: 'group_norm',
  ways: WAYS,
  fits: (way, target, call) => way.fits(target, call) && (call.dEmbedding === null || way.embeddingGradient),
  lower: (way, graph, call) => way.backward(graph, call),
  shape: shapeFor('gradient'),
});

export function forward(
  b: Builder,
  spec: GroupNorm,
  name: string,
  x: Activation,
  embedding: Embedding | null = null,
): Activation {
  return appendNorm(b, spec, name, x, embedding, false).y;
}

/**
 * The norm where it is averaged down by two afterwards, as is the path beside it.
 *
 * @returns the means of each 2 x 2 block of the norm's result and of x, both [N, C, floor(H / 2), floor(W / 2)]
 */
export function forwardDown(
  b: Builder,
  spec: GroupNorm,
  name: string,
  x: Activation,
): { readonly normed: Activation; readonly straight: Activation } {
  const call = appendNorm(b, spec, name, x, null, true);
  const shape = downsampled(x.shape);
  const normed = b.graph.activation(`${name} downsample`, shape);
  const straight = b.graph.activation('downsample', shape);
  b.graph.append({
    name: `${name} downsample`,
    inputs: [call.y, x],
    outputs: [normed, straight],
    lower: () => [applyDown(call, normed, straight)],
    adjoint: ({ outputs, needs }) =>
      outputs.map((gradient, i) => (gradient && needs[i] ? downsampleGradient(b.graph, gradient, x.shape) : null)),
  });
  return { normed, straight };
}

function appendNorm(
  b: Builder,
  spec: GroupNorm,
  name: string,
  x: Activation,
  embedding: Embedding | null,
  averaged: boolean,
): GroupNormCall {
  const { channels, groups, eps, silu } = spec;
  if (x.shape.c !== channels) throw new Error(`${name} takes ${channels} channels, found ${x.shape.c}`);
  if (channels % groups !== 0)
    throw new OptionError(`${name}: ${channels} channels do not divide into ${groups} groups`);
  const gamma = b.weights.vector(`${name}.weight`);
  const beta = b.weights.vector(`${name}.bias`);
  const coefficients = b.graph.array(`${name} coefficients`, x.shape.n * 4 * quads(channels) * 4);
  const separate = () => ways.lower().length > 1;
  const y = b.graph.activation(name, x.shape, { kind: 'normalised', of: x, coefficients, silu, separate });
  const call: GroupNormCall = { name, groups, eps, silu, x, y, gamma, beta, embedding, coefficients, averaged };
  const ways = variantsOf(b.graph, FORWARD, call);
  b.graph.append({
    name: `${name} group_norm`,
    inputs: embedding ? [x, embedding.tensor] : [x],
    outputs: [y, coefficients],
    ...ways,
    adjoint: ({ outputs: [dy], needs, take }) => {
      const dEmbedding = embedding !== null && needs[1] ? embeddingGradient(b, spec, name, embedding) : null;
      const residual = needs[0] ? take(0) : null;
      const dx = needs[0] ? b.graph.activation(`${name} gradient`, x.shape) : null;
      b.graph.append({
        name: `${name} group_norm gradient`,
        inputs: [dy!, x, coefficients, ...(residual ? [residual] : [])],
        outputs: [dx, dEmbedding].filter((tensor) => tensor !== null),
        ...variantsOf(b.graph, GRADIENT, { ...call, dy: dy!, dx, residual, dEmbedding }),
      });
      return [dx, dEmbedding];
    },
  });
  return call;
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
