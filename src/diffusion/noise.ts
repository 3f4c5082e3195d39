/**
 * @file Gaussian noise addressed by what it is for, the same bits on every adapter and on the CPU.
 *
 * Philox4x32-10 (Salmon et al. 2011) turns an address into four 32-bit words: the key is the seed, the counter is (quad
 * of the image, image, timestep, stream). So a picture's noise depends neither on the batch it is made in nor on the
 * order of calls. A word becomes a normal deviate by interpolating a table of the inverse distribution function in
 * integers; the only floating-point operations are an exact conversion and an exact scaling. No logarithm or cosine of
 * an adapter is involved.
 *
 * shaders/diffusion/gaussian_noise.wgsl is the same computation.
 */
import type { Table } from '../runtime/resources.ts';
import { quads, type Shape } from '../runtime/resources.ts';

/** Streams of one seed: the noise of each step, the starting noise x_T, and that on the known part of a picture. */
export const STREAM = { step: 0, start: 1, known: 2 } as const;

const MULTIPLIER = [0xd2511f53, 0xcd9e8d57] as const;
const WEYL = [0x9e3779b9, 0xbb67ae85] as const;

/** The high 32 bits of a product of two 32-bit words. */
function highProduct(a: number, b: number): number {
  const a0 = a & 0xffff;
  const a1 = a >>> 16;
  const b0 = b & 0xffff;
  const b1 = b >>> 16;
  const middle = a1 * b0 + Math.floor((a0 * b0) / 65536);
  const crossed = a0 * b1 + (middle & 0xffff);
  return (a1 * b1 + Math.floor(middle / 65536) + Math.floor(crossed / 65536)) >>> 0;
}

export type Words = readonly [number, number, number, number];

/** Philox4x32 with ten rounds. All words are unsigned. */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = highProduct(MULTIPLIER[0], c0);
    const high1 = highProduct(MULTIPLIER[1], c2);
    const low0 = Math.imul(MULTIPLIER[0], c0) >>> 0;
    const low1 = Math.imul(MULTIPLIER[1], c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL[0]) >>> 0;
    k1 = (k1 + WEYL[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** log2 of the segments that each octave of the tail probability is cut into, and of the steps inside a segment. */
const SEGMENT_BITS = 6;
const FRACTION_BITS = 11;
/** Binary digits after the point: of the table's entries, and of the deviates. 6.2 * 2^21 still fits a float32 exactly. */
const TABLE_DIGITS = 26;
const RESULT_DIGITS = 21;
/** Octaves of a 31-bit word. */
const OCTAVES = 31;

/** exp(-y) for y >= 0 by +, -, *, / alone, so that every engine gets the same bits. */
function expNegative(y: number): number {
  const halvings = 8;
  const small = y / 2 ** halvings;
  let term = 1;
  let sum = 1;
  for (let n = 1; n <= 24; n++) {
    term *= -small / n;
    sum += term;
  }
  for (let i = 0; i < halvings; i++) sum *= sum;
  return sum;
}

const INVERSE_SQRT_2PI = 0.3989422804014327;

/** Density and upper tail probability of the standard normal distribution at z >= 0. */
function normal(z: number): { density: number; tail: number } {
  const density = INVERSE_SQRT_2PI * expNegative((z * z) / 2);
  if (z < 2.5) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 60; n++) {
      term *= (z * z) / (2 * n + 1);
      sum += term;
    }
    return { density, tail: 0.5 - density * sum };
  }
  let fraction = z;
  for (let n = 120; n > 0; n--) fraction = z + n / fraction;
  return { density, tail: density / fraction };
}

let cachedTable: Uint32Array | null = null;

/**
 * Deviates at the borders of the segments, in units of 2^-26. Entry 64 * k + j belongs to the 31-bit magnitude
 * m = 2^k * (1 + j / 64), whose tail probability is (m + 1/2) / 2^32.
 */
export function quantileTable(): Uint32Array {
  if (cachedTable) return cachedTable;
  const segments = 2 ** SEGMENT_BITS;
  const table = new Uint32Array(OCTAVES * segments + 1);
  let z = 6.1;
  table.forEach((_, i) => {
    const magnitude = 2 ** Math.floor(i / segments) * (1 + (i % segments) / segments);
    const wanted = (magnitude + 0.5) / 2 ** 32;
    for (let k = 0; k < 8; k++) {
      const { density, tail } = normal(z);
      z = Math.max(0, z + (tail - wanted) / density);
    }
    table[i] = Math.round(z * 2 ** TABLE_DIGITS);
  });
  cachedTable = table;
  return table;
}

/** The table as a kernel's resource. */
export const quantiles = (): Table => ({ kind: 'table', name: 'normal quantiles', data: quantileTable() });

/** A normal deviate from 32 random bits: the sign from the first, the magnitude from the others. */
export function deviate(word: number): number {
  const table = quantileTable();
  const magnitude = Math.max(word & 0x7fffffff, 1);
  const leading = Math.clz32(magnitude);
  const rest = (magnitude << leading) << 1; // what follows the leading one, at the top of the word
  const segment = rest >>> (32 - SEGMENT_BITS);
  const fraction = (rest << SEGMENT_BITS) >>> (32 - FRACTION_BITS);
  const at = (31 - leading) * 2 ** SEGMENT_BITS + segment;
  const upper = table[at]!;
  const drop = upper - table[at + 1]!;
  const value = upper - ((drop * fraction) >>> FRACTION_BITS);
  const shift = TABLE_DIGITS - RESULT_DIGITS;
  const rounded = (value + (1 << (shift - 1))) >>> shift;
  return (word >>> 31 === 0 ? rounded : -rounded) * 2 ** -RESULT_DIGITS;
}

/** The seed as the two words of a key. */
export function seedWords(seed: number): [number, number] {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(`a seed is an integer from 0 to 2^53 - 1, found ${seed}`);
  }
  return [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
}

export interface NoiseAddress {
  readonly seed: number;
  /** Number of the first image, counted over all batches of a run. */
  readonly firstImage: number;
  /** Timestep of the respaced process; 0 for the starting noise. */
  readonly step: number;
  readonly stream: (typeof STREAM)[keyof typeof STREAM];
}

/** Noise of `shape` in NCHW order, bit for bit what the GPU makes. */
export function gaussianNoise(address: NoiseAddress, { n, c, h, w }: Shape): Float32Array {
  const key = seedWords(address.seed);
  const data = new Float32Array(n * c * h * w);
  const area = h * w;
  for (let image = 0; image < n; image++) {
    for (let pixel = 0; pixel < area; pixel++) {
      for (let quad = 0; quad < quads(c); quad++) {
        const words = philox([pixel * quads(c) + quad, address.firstImage + image, address.step, address.stream], key);
        for (let lane = 0; lane < 4 && quad * 4 + lane < c; lane++) {
          data[(image * c + quad * 4 + lane) * area + pixel] = deviate(words[lane]!);
        }
      }
    }
  }
  return data;
}
