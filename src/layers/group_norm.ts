/**
 * @file GroupNorm, optionally with SiLU after it and with an embedding inside it, as ADM's residual blocks use it.
 *
 *   plain        y = (x - mean) * rstd * gamma + beta
 *   scale-shift  y = ((x - mean) * rstd * gamma + beta) * (1 + scale) + shift
 *   add          y = plain of (x + e)
 *
 * Three kernels: moments of channels, one affine map a channel, apply. Saved for the backward pass: x, the moments and
 * the maps. The gradient is again two sums a channel, a combination a group, apply.
 */

import applyShader from '../../shaders/group_norm/apply.wgsl';
import backwardApply from '../../shaders/group_norm/backward_apply.wgsl';
import backwardCoefficients from '../../shaders/group_norm/backward_coefficients.wgsl';
import backwardSums from '../../shaders/group_norm/backward_sums.wgsl';
import coefficientsShader from '../../shaders/group_norm/coefficients.wgsl';
import momentsShader from '../../shaders/group_norm/moments.wgsl';
import { OptionError } from '../runtime/errors.ts';
import { type Activation, activationBytes, quads, type Shape } from '../runtime/resources.ts';
import { type Cost, kernelCall, lineGrid } from '../runtime/shader.ts';
import type { Builder, Parameter } from './builder.ts';

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

const MODES = { 'scale-shift': 1, add: 2 } as const;

export function parameters({ channels }: GroupNorm, name: string): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [channels] },
    { name: `${name}.bias`, shape: [channels] },
  ];
}

/** Pixels that the moments kernel holds in registers; its RUN. */
const RUN = 8;

/** Segments an image is cut into: enough to keep a GPU busy, few enough to be joined by one invocation a channel. */
const MAX_SEGMENTS = 32;

export function forward(
  b: Builder,
  spec: GroupNorm,
  name: string,
  x: Activation,
  embedding: Embedding | null = null,
): Activation {
  const { channels, groups, eps, silu } = spec;
  if (x.shape.c !== channels) throw new Error(`${name} takes ${channels} channels, found ${x.shape.c}`);
  if (channels % groups !== 0)
    throw new OptionError(`${name}: ${channels} channels do not divide into ${groups} groups`);
  const { n, h, w } = x.shape;
  const area = h * w;
  const stride = quads(channels) * 4;
  const runs = Math.ceil(area / RUN);
  const blocks = Math.ceil(runs / MAX_SEGMENTS);
  const segments = Math.ceil(runs / blocks);
  const segmentPixels = blocks * RUN;
  const image = { IMAGES: n, PIXELS: area, CHANNEL_QUADS: stride / 4 };
  const group = { IMAGES: n, PIXELS: area, CHANNELS: channels, GROUPS: groups };
  const cut = { SEGMENTS: segments, SEGMENT_PIXELS: segmentPixels };
  const gamma = b.weights.vector(`${name}.weight`);
  const beta = b.weights.vector(`${name}.bias`);
  const applyGrid = lineGrid(n * Math.ceil(area / 4) * image.CHANNEL_QUADS, 64);
  const channelGrid = lineGrid(n * stride, 64);
  const segmentGrid = lineGrid(n * segments * image.CHANNEL_QUADS, 64);
  const bytes = activationBytes(x.shape);

  const moments = b.graph.array(`${name} moments`, n * segments * 2 * stride);
  const coefficients = b.graph.array(`${name} coefficients`, n * 4 * stride);
  const y = b.graph.activation(name, x.shape);
  b.graph.append({
    name: `${name} group_norm`,
    inputs: embedding ? [x, embedding.tensor] : [x],
    outputs: [y, moments, coefficients],
    lower: () => [
      kernelCall(momentsShader, {
        bind: { x, moments },
        sizes: { ...image, SEGMENTS: segments, BLOCKS: blocks },
        tiles: { RUN },
        grid: segmentGrid,
        cost: { flops: bytes, bytes },
      }),
      kernelCall(coefficientsShader, {
        bind: { moments, gamma, beta, embedding: embedding?.tensor ?? null, coefficients },
        sizes: {
          ...group,
          ...cut,
          EMBEDDING_STRIDE: embedding ? quads(embedding.tensor.shape.c) * 4 : 0,
          EMBEDDING_OFFSET: embedding?.offset ?? 0,
          EPS: eps,
        },
        switches: { EMBEDDING: embedding ? MODES[embedding.mode] : 0 },
        grid: channelGrid,
        cost: { flops: 0, bytes: moments.bytes + coefficients.bytes },
      }),
      kernelCall(applyShader, {
        bind: { x, coefficients, y },
        sizes: image,
        switches: { SILU: silu },
        tiles: {},
        grid: applyGrid,
        cost: { flops: (silu ? 8 : 2) * (bytes / 4), bytes: 2 * bytes },
      }),
    ],
    adjoint: ({ outputs: [dy], needs, take }) => {
      const forEmbedding = embedding !== null && needs[1] === true;
      const dEmbedding = forEmbedding ? embeddingGradient(b, spec, name, embedding) : null;
      const residual = needs[0] ? take(0) : null;
      const dx = b.graph.activation(`${name} gradient`, x.shape);
      const sums = b.graph.array(`${name} gradient sums`, n * segments * 2 * stride);
      const terms = b.graph.array(`${name} gradient terms`, n * 2 * stride);
      b.graph.append({
        name: `${name} group_norm gradient`,
        inputs: [dy!, x, moments, coefficients, ...(residual ? [residual] : [])],
        outputs: [...(needs[0] ? [dx] : []), sums, terms, ...(dEmbedding ? [dEmbedding] : [])],
        lower: () => {
          const calls = [
            kernelCall(backwardSums, {
              bind: { dy: dy!, x, coefficients, sums },
              sizes: { ...image, ...cut },
              switches: { SILU: silu },
              grid: segmentGrid,
              cost: { flops: (silu ? 12 : 4) * (bytes / 4), bytes: 2 * bytes },
            }),
            kernelCall(backwardCoefficients, {
              bind: { sums, moments, coefficients, gamma, beta, terms, d_embedding: dEmbedding },
              sizes: { ...group, ...cut },
              switches: { EMBEDDING: forEmbedding ? MODES[embedding.mode] : 0 },
              grid: channelGrid,
              cost: { flops: 0, bytes: sums.bytes + terms.bytes },
            }),
          ];
          if (needs[0]) {
            calls.push(
              kernelCall(backwardApply, {
                bind: { dy: dy!, x, coefficients, terms, residual, dx },
                sizes: { ...image, RESIDUAL: Number(residual !== null) },
                switches: { SILU: silu },
                tiles: {},
                grid: applyGrid,
                cost: { flops: (silu ? 16 : 6) * (bytes / 4), bytes: (residual ? 4 : 3) * bytes },
              }),
            );
          }
          return calls;
        },
      });
      return [needs[0] ? dx : null, dEmbedding];
    },
  });
  return y;
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
