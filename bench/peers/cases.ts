/**
 * @file What is measured: operators by shape, and whole networks.
 */

import { countWork } from './count.ts';
import { parameterValues, timestepEmbedding, uniform } from './data.ts';

export interface ConvCase {
  readonly op: 'conv';
  readonly batch: number;
  readonly size: number;
  readonly in: number;
  readonly out: number;
  readonly kernel: number;
}

/** GroupNorm with 32 groups, then SiLU. */
export interface GroupNormCase {
  readonly op: 'groupnorm';
  readonly batch: number;
  readonly size: number;
  readonly channels: number;
}

export interface AttentionCase {
  readonly op: 'attention';
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  /** Of a head. */
  readonly width: number;
}

/** An ADM network: scale-shift norms, up and down in residual blocks, 32 groups, q, k and v in three blocks. */
export interface NetworkSizes {
  readonly batch: number;
  readonly size: number;
  /** Of the picture, 3 or 1. */
  readonly in: number;
  readonly base: number;
  readonly mult: readonly number[];
  readonly blocks: number;
  /** Sides of the maps that have attention; the middle always has. */
  readonly attention: readonly number[];
  readonly headChannels: number;
}

export interface UNetCase extends NetworkSizes {
  readonly op: 'unet';
  readonly out: number;
}

export interface ClassifierCase extends NetworkSizes {
  /** The logits, or the gradient of log p(label | x) with respect to x. */
  readonly op: 'classifier' | 'gradient';
  readonly classes: number;
  readonly label: number;
}

/**
 * What the adapter can do: vec4f multiply-adds in registers, or a copy of vec4f in storage. Not what anybody would run, but
 * what everything else may be held against.
 */
export interface PeakCase {
  readonly op: 'fma' | 'copy';
  /** Invocations; each holds 16 vec4f in registers, or copies one. */
  readonly threads: number;
  /** Multiply-adds of each register. */
  readonly steps: number;
  readonly batch: number;
}

export type NetworkCase = UNetCase | ClassifierCase;
export type Case = PeakCase | ConvCase | GroupNormCase | AttentionCase | NetworkCase;
export type Op = Case['op'];

export const TIMESTEP = 417;

const NETWORK = { batch: 1, size: 32, in: 3, mult: [1, 2, 2, 2], blocks: 2, attention: [16, 8], headChannels: 64 };

const DEFAULTS: Readonly<Record<Op, Readonly<Record<string, number | readonly number[]>>>> = {
  fma: { threads: 16384, steps: 512, batch: 1 },
  copy: { threads: 1 << 20, steps: 0, batch: 1 },
  conv: { batch: 1, size: 32, in: 64, out: 64, kernel: 3 },
  groupnorm: { batch: 1, size: 32, channels: 128 },
  attention: { batch: 1, heads: 4, tokens: 1024, width: 32 },
  unet: { ...NETWORK, base: 64, out: 6 },
  classifier: { ...NETWORK, base: 32, classes: 10, label: 3 },
  gradient: { ...NETWORK, base: 32, classes: 10, label: 3 },
};

/** The cases of docs/performance.md. */
export const CASES: readonly Case[] = [
  'fma',
  'copy',
  'conv',
  'conv:size=16,in=256,out=256',
  'conv:size=8,in=512,out=512',
  'conv:size=16,in=256,out=768,kernel=1',
  'groupnorm',
  'attention',
  'unet',
  'classifier',
  'gradient',
].map(parseCase);

/**
 * Reads a case from a word: the operator, and what differs from its default, lists with dashes between. For example
 * `unet:size=24,base=96,mult=1-2-3,attention=12-6`.
 */
export function parseCase(text: string): Case {
  const [op = '', rest = ''] = text.split(':');
  if (!(op in DEFAULTS)) throw new Error(`no operator "${op}"; there are ${Object.keys(DEFAULTS).join(', ')}`);
  const values: Record<string, unknown> = { op, ...DEFAULTS[op as Op] };
  for (const pair of rest.split(',').filter(Boolean)) {
    const [key = '', value = ''] = pair.split('=');
    if (!(key in values) || key === 'op') throw new Error(`${op} has no size "${key}", found "${text}"`);
    const numbers = value.split('-').map(Number);
    const list = Array.isArray(values[key]);
    if (numbers.some((n) => !Number.isInteger(n) || n < 0) || (!list && numbers.length !== 1)) {
      throw new Error(`${key} should be ${list ? 'whole numbers with dashes between' : 'a whole number'}: "${text}"`);
    }
    values[key] = list ? numbers : numbers[0];
  }
  const found = values as unknown as Case;
  if (isNetwork(found) && found.size % 2 ** (found.mult.length - 1) !== 0) {
    throw new Error(`${found.size} pixels cannot be halved ${found.mult.length - 1} times: "${text}"`);
  }
  return found;
}

export function isNetwork(c: Case): c is NetworkCase {
  return c.op === 'unet' || c.op === 'classifier' || c.op === 'gradient';
}

/** Tells cases apart; in tables and as the seed of their values. */
export function nameOf(c: Case): string {
  const batch = c.batch === 1 ? '' : `, batch ${c.batch}`;
  switch (c.op) {
    case 'fma':
      return `vec4f multiply-adds in registers, ${c.threads} invocations of 16 x ${c.steps}`;
    case 'copy':
      return `copy of ${c.threads} vec4f in storage`;
    case 'conv':
      return `conv ${c.kernel}x${c.kernel}, ${c.size}x${c.size}, ${c.in} to ${c.out}${batch}`;
    case 'groupnorm':
      return `GroupNorm(32)+SiLU, ${c.size}x${c.size}, ${c.channels} channels${batch}`;
    case 'attention':
      return `attention, ${c.heads} heads, ${c.tokens} tokens, width ${c.width}${batch}`;
    default: {
      const what = { unet: 'U-Net', classifier: 'classifier', gradient: 'classifier gradient' }[c.op];
      const network = `base ${c.base}, mult ${c.mult.join()}, ${c.blocks} blocks, attention at ${c.attention.join()}`;
      return `${what}, ${c.size}x${c.size}x${c.in}, ${network}${batch}`;
    }
  }
}

/** Multiply-adds of a call; of a gradient those of the forward pass alone. */
export function multiplyAdds(c: Case): number {
  switch (c.op) {
    case 'fma':
      return c.threads * c.steps * 16 * 4;
    case 'copy':
      return 0;
    case 'conv':
      return c.batch * c.size ** 2 * c.in * c.out * c.kernel ** 2;
    case 'groupnorm':
      return 0;
    case 'attention':
      return 2 * c.batch * c.heads * c.tokens ** 2 * c.width;
    default:
      return countWork(c).multiplyAdds;
  }
}

/** The factor and the summand of each multiply-add, and what the registers begin with: neither grows nor fades. */
export const FMA = {
  factor: 0.998,
  summand: 0.002,
  first: (thread: number, lane: number) => (thread % 64) / 64 + lane,
};

/** A copy's input. */
export const copyValues = (c: PeakCase): Float32Array => uniform(nameOf(c), 4 * c.threads);

export function convValues(c: ConvCase) {
  const name = nameOf(c);
  return {
    x: uniform(`${name} x`, c.batch * c.in * c.size ** 2),
    weight: uniform(`${name} weight`, c.out * c.in * c.kernel ** 2, Math.sqrt(3 / (c.in * c.kernel ** 2))),
    bias: uniform(`${name} bias`, c.out, 0.1),
  };
}

export function groupNormValues(c: GroupNormCase) {
  const name = nameOf(c);
  return {
    x: uniform(`${name} x`, c.batch * c.channels * c.size ** 2, 1.5, 0.3),
    weight: uniform(`${name} weight`, c.channels, 0.3, 1),
    bias: uniform(`${name} bias`, c.channels, 0.3),
  };
}

/** Each [batch, heads, tokens, width]. */
export function attentionValues(c: AttentionCase) {
  const count = c.batch * c.heads * c.tokens * c.width;
  const [q, k, v] = ['q', 'k', 'v'].map((part) => uniform(`${nameOf(c)} ${part}`, count));
  return { q: q!, k: k!, v: v! };
}

/** x is NCHW, the embedding [batch, base]. */
export function networkInputs(c: NetworkCase) {
  const kind = c.op === 'unet' ? 'unet' : 'classifier';
  return {
    x: uniform(`${kind} x`, c.batch * c.in * c.size ** 2),
    embedding: timestepEmbedding(TIMESTEP, c.base, c.batch),
  };
}

/** Makes a case's values, so that what comes later finds them made. */
export function prepareValues(c: Case): void {
  if (isNetwork(c)) {
    networkInputs(c);
    for (const { name, shape } of countWork(c).parameters) parameterValues(name, shape);
  } else if (c.op === 'copy') copyValues(c);
  else if (c.op === 'conv') convValues(c);
  else if (c.op === 'groupnorm') groupNormValues(c);
  else if (c.op === 'attention') attentionValues(c);
}
