/**
 * @file What kernels should compute, in float64 and plain loops, at some places of the result: a whole result of a large
 * shape would take minutes. Layout NCHW. Shares nothing with the kernels.
 */
import type { Shape } from '../src/runtime/resources.ts';

export type Values = ArrayLike<number>;

/** Values at some places of a result, or of a gradient. */
export interface Sample {
  readonly at: readonly number[];
  readonly values: readonly number[];
}

/** Relative L2 error over the sampled places. */
export const relativeError = (found: Values, { at, values }: Sample): number =>
  relativeDifference(
    at.map((place) => found[place]!),
    values,
  );

/** Relative L2 error; NaN if the sizes differ. */
export function relativeDifference(found: Values, expected: Values): number {
  if (found.length !== expected.length) return Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** `count` places in [0, length), spread over all of it, the ends included. */
export function places(length: number, count: number): number[] {
  if (count >= length) return Array.from({ length }, (_, i) => i);
  // Steps of a prime beside the even spacing, so that not every place lies in the same column.
  return Array.from({ length: count }, (_, i) =>
    i === count - 1
      ? length - 1
      : (Math.floor((i * length) / count) + ((i * 7919) % Math.ceil(length / count))) % length,
  );
}

const coordinates = (index: number, { c, h, w }: Shape) => ({
  n: Math.floor(index / (c * h * w)),
  channel: Math.floor(index / (h * w)) % c,
  y: Math.floor(index / w) % h,
  x: index % w,
});

/** A convolution of k x k, padding (k - 1) / 2. weights [O, I, k, k]. */
export function convolution(
  x: Values,
  shape: Shape,
  weights: Values,
  bias: Values,
  { out, k, stride }: { out: number; k: number; stride: number },
  count: number,
): Sample {
  const result = { n: shape.n, c: out, h: Math.ceil(shape.h / stride), w: Math.ceil(shape.w / stride) };
  const pad = (k - 1) / 2;
  const at = places(result.n * out * result.h * result.w, count);
  const values = at.map((index) => {
    const place = coordinates(index, result);
    let sum = bias[place.channel]!;
    for (let i = 0; i < shape.c; i++) {
      for (let ky = 0; ky < k; ky++) {
        const iy = place.y * stride + ky - pad;
        if (iy < 0 || iy >= shape.h) continue;
        for (let kx = 0; kx < k; kx++) {
          const ix = place.x * stride + kx - pad;
          if (ix < 0 || ix >= shape.w) continue;
          const weight = weights[((place.channel * shape.c + i) * k + ky) * k + kx]!;
          sum += weight * x[((place.n * shape.c + i) * shape.h + iy) * shape.w + ix]!;
        }
      }
    }
    return sum;
  });
  return { at, values };
}

/** Its input gradient. @param shape of the input */
export function convolutionGradient(
  dy: Values,
  shape: Shape,
  weights: Values,
  { out, k, stride }: { out: number; k: number; stride: number },
  count: number,
): Sample {
  const pad = (k - 1) / 2;
  const [h, w] = [Math.ceil(shape.h / stride), Math.ceil(shape.w / stride)];
  const at = places(shape.n * shape.c * shape.h * shape.w, count);
  const values = at.map((index) => {
    const place = coordinates(index, shape);
    let sum = 0;
    for (let ky = 0; ky < k; ky++) {
      const oy = (place.y + pad - ky) / stride;
      if (!Number.isInteger(oy) || oy < 0 || oy >= h) continue;
      for (let kx = 0; kx < k; kx++) {
        const ox = (place.x + pad - kx) / stride;
        if (!Number.isInteger(ox) || ox < 0 || ox >= w) continue;
        for (let o = 0; o < out; o++) {
          const weight = weights[((o * shape.c + place.channel) * k + ky) * k + kx]!;
          sum += weight * dy[((place.n * out + o) * h + oy) * w + ox]!;
        }
      }
    }
    return sum;
  });
  return { at, values };
}

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** GroupNorm with SiLU behind it: all of some groups, and the gradient there. */
export function groupNormSilu(
  x: Values,
  dy: Values,
  { n, c, h, w }: Shape,
  { gamma, beta, groups, eps }: { gamma: Values; beta: Values; groups: number; eps: number },
  sampledGroups: number,
): { forward: Sample; gradient: Sample } {
  const size = (c / groups) * h * w;
  const at: number[] = [];
  const forward: number[] = [];
  const gradient: number[] = [];
  for (const group of places(n * groups, sampledGroups)) {
    const base = group * size;
    const channelOf = (i: number) => (group % groups) * (c / groups) + Math.floor(i / (h * w));
    let mean = 0;
    for (let i = 0; i < size; i++) mean += x[base + i]! / size;
    let variance = 0;
    for (let i = 0; i < size; i++) variance += (x[base + i]! - mean) ** 2 / size;
    const rstd = 1 / Math.sqrt(variance + eps);
    const normalised = new Float64Array(size);
    const upstream = new Float64Array(size);
    let [sum, product] = [0, 0];
    for (let i = 0; i < size; i++) {
      const channel = channelOf(i);
      const hat = (x[base + i]! - mean) * rstd;
      const z = hat * gamma[channel]! + beta[channel]!;
      const s = sigmoid(z);
      const d = dy[base + i]! * s * (1 + z * (1 - s)) * gamma[channel]!;
      normalised[i] = hat;
      upstream[i] = d;
      sum += d / size;
      product += (d * hat) / size;
      at.push(base + i);
      forward.push(z * s);
    }
    for (let i = 0; i < size; i++) gradient.push(rstd * (upstream[i]! - sum - normalised[i]! * product));
  }
  return { forward: { at, values: forward }, gradient: { at, values: gradient } };
}

/**
 * Attention of the first head of the first image, and its gradient.
 *
 * @param qkv [N, heads * (q, k, v) * width, T]; @param dOut [N, heads * width, T]
 */
export function attentionHead(
  qkv: Values,
  dOut: Values,
  { tokens, width }: { tokens: number; width: number },
): { forward: Sample; gradient: Sample } {
  const part = (which: number, d: number, t: number) => (which * width + d) * tokens + t;
  const scale = 1 / Math.sqrt(width);
  const out = new Float64Array(width * tokens);
  const gradient = new Float64Array(3 * width * tokens);
  const weights = new Float64Array(tokens);
  for (let i = 0; i < tokens; i++) {
    let peak = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < tokens; j++) {
      let score = 0;
      for (let d = 0; d < width; d++) score += qkv[part(0, d, i)]! * qkv[part(1, d, j)]!;
      weights[j] = score * scale;
      peak = Math.max(peak, weights[j]!);
    }
    let total = 0;
    for (let j = 0; j < tokens; j++) {
      weights[j] = Math.exp(weights[j]! - peak);
      total += weights[j]!;
    }
    // sum_d dOut[d] * out[d]: what the softmax's Jacobian takes away.
    let delta = 0;
    for (let d = 0; d < width; d++) {
      let sum = 0;
      for (let j = 0; j < tokens; j++) sum += weights[j]! * qkv[part(2, d, j)]!;
      out[d * tokens + i] = sum / total;
      delta += (dOut[d * tokens + i]! * sum) / total;
    }
    for (let j = 0; j < tokens; j++) {
      const p = weights[j]! / total;
      let flow = 0;
      for (let d = 0; d < width; d++) {
        flow += dOut[d * tokens + i]! * qkv[part(2, d, j)]!;
        gradient[part(2, d, j)]! += p * dOut[d * tokens + i]!;
      }
      const dScore = p * (flow - delta) * scale;
      for (let d = 0; d < width; d++) {
        gradient[part(0, d, i)]! += dScore * qkv[part(1, d, j)]!;
        gradient[part(1, d, j)]! += dScore * qkv[part(0, d, i)]!;
      }
    }
  }
  const all = (length: number) => Array.from({ length }, (_, i) => i);
  return {
    forward: { at: all(out.length), values: [...out] },
    gradient: { at: all(gradient.length), values: [...gradient] },
  };
}

/** Nearest-neighbour enlargement by two, and its gradient: the sum over each block. */
export function upsampling(x: Values, dy: Values, shape: Shape, count: number): { forward: Sample; gradient: Sample } {
  const { n, c, h, w } = shape;
  const large = { n, c, h: 2 * h, w: 2 * w };
  const at = places(n * c * 4 * h * w, count);
  const values = at.map((index) => {
    const place = coordinates(index, large);
    return x[((place.n * c + place.channel) * h + (place.y >> 1)) * w + (place.x >> 1)]!;
  });
  const from = places(n * c * h * w, count);
  const sums = from.map((index) => {
    const place = coordinates(index, shape);
    let sum = 0;
    for (const [dy_, dx] of [
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ] as const) {
      sum += dy[((place.n * c + place.channel) * 2 * h + 2 * place.y + dy_) * 2 * w + 2 * place.x + dx]!;
    }
    return sum;
  });
  return { forward: { at, values }, gradient: { at: from, values: sums } };
}
