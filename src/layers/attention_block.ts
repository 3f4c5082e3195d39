/**
 * @file ADM's attention block: norm, q k v, attention over the pixels, projection, residual.
 *
 *   y = x + proj(attention(qkv(norm(x))))
 */
import { OptionError } from '../runtime/errors.ts';
import type { Activation } from '../runtime/resources.ts';
import * as attention from './attention.ts';
import type { Builder, Parameter } from './builder.ts';
import { scale } from './elementwise.ts';
import * as groupNorm from './group_norm.ts';
import * as linear from './linear.ts';

export interface AttentionBlock {
  readonly channels: number;
  readonly heads: number;
  readonly order: attention.QkvOrder;
  /** y is divided by sqrt(2), so that its variance is that of its parts. */
  readonly rescale: boolean;
  /** Of the norm; 1e-5 if absent. */
  readonly eps?: number | undefined;
}

/** guided-diffusion's choice of heads: by width where `numHeadChannels` is not -1, else by number. */
export function headCount(channels: number, numHeads: number, numHeadChannels: number): number {
  if (numHeadChannels === -1) return numHeads;
  if (channels % numHeadChannels !== 0) {
    throw new OptionError(`${channels} channels do not divide into heads of ${numHeadChannels}`);
  }
  return channels / numHeadChannels;
}

const layers = ({ channels, eps }: AttentionBlock) => ({
  norm: groupNorm.normalization(channels, false, eps),
  qkv: { in: channels, out: 3 * channels, taps: 1 } as const,
  proj: { in: channels, out: channels, taps: 1 } as const,
});

export function parameters(spec: AttentionBlock, name: string): Parameter[] {
  const { norm, qkv, proj } = layers(spec);
  return [
    ...groupNorm.parameters(norm, `${name}.norm`),
    ...linear.parameters(qkv, `${name}.qkv`),
    ...linear.parameters(proj, `${name}.proj_out`),
  ];
}

export function forward(b: Builder, spec: AttentionBlock, name: string, x: Activation): Activation {
  const { channels, heads, order } = spec;
  if (channels % heads !== 0) throw new OptionError(`${name}: ${channels} channels do not divide into ${heads} heads`);
  const head = { heads, width: channels / heads };
  const maps = attention.channelMaps(head, order);
  const normed = groupNorm.forward(b, layers(spec).norm, `${name}.norm`, x);
  const qkv = linear.forward(b, `${name}.qkv`, normed, { outMap: maps.qkv });
  const mixed = attention.forward(b.graph, head, qkv);
  const y = linear.forward(b, `${name}.proj_out`, mixed, { inMap: maps.out, residual: x });
  return spec.rescale ? scale(b.graph, y, Math.SQRT1_2) : y;
}
