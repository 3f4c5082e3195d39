/**
 * @file Operations and their input gradients in float64 and plain loops, NCHW, sharing nothing with the kernels.
 */
import type { Shape } from '../../src/runtime/resources.ts';

export type Values = ArrayLike<number>;

const at = ({ c, h, w }: Shape, n: number, ch: number, y: number, x: number): number => ((n * c + ch) * h + y) * w + x;

/** w: [O, I, k, k]. */
export function conv2d(x: Values, shape: Shape, w: Values, bias: Values, out: number, k: number, stride: number) {
  const pad = (k - 1) / 2;
  const y: Shape = {
    n: shape.n,
    c: out,
    h: Math.floor((shape.h - 1) / stride) + 1,
    w: Math.floor((shape.w - 1) / stride) + 1,
  };
  const data = new Float64Array(y.n * out * y.h * y.w);
  for (let n = 0; n < y.n; n++)
    for (let o = 0; o < out; o++)
      for (let oy = 0; oy < y.h; oy++)
        for (let ox = 0; ox < y.w; ox++) {
          let sum = bias[o]!;
          for (let i = 0; i < shape.c; i++)
            for (let ky = 0; ky < k; ky++)
              for (let kx = 0; kx < k; kx++) {
                const iy = oy * stride + ky - pad;
                const ix = ox * stride + kx - pad;
                if (iy < 0 || iy >= shape.h || ix < 0 || ix >= shape.w) continue;
                sum += w[((o * shape.c + i) * k + ky) * k + kx]! * x[at(shape, n, i, iy, ix)]!;
              }
          data[at(y, n, o, oy, ox)] = sum;
        }
  return { data, shape: y };
}

/** Scatters each output's gradient to the inputs it came from. */
export function conv2dGradient(
  dy: Values,
  yShape: Shape,
  w: Values,
  shape: Shape,
  k: number,
  stride: number,
): Float64Array {
  const pad = (k - 1) / 2;
  const dx = new Float64Array(shape.n * shape.c * shape.h * shape.w);
  for (let n = 0; n < yShape.n; n++)
    for (let o = 0; o < yShape.c; o++)
      for (let oy = 0; oy < yShape.h; oy++)
        for (let ox = 0; ox < yShape.w; ox++)
          for (let i = 0; i < shape.c; i++)
            for (let ky = 0; ky < k; ky++)
              for (let kx = 0; kx < k; kx++) {
                const iy = oy * stride + ky - pad;
                const ix = ox * stride + kx - pad;
                if (iy < 0 || iy >= shape.h || ix < 0 || ix >= shape.w) continue;
                dx[at(shape, n, i, iy, ix)]! +=
                  w[((o * shape.c + i) * k + ky) * k + kx]! * dy[at(yShape, n, o, oy, ox)]!;
              }
  return dx;
}

export const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
export const silu = (z: number): number => z * sigmoid(z);
export const siluSlope = (z: number): number => sigmoid(z) * (1 + z * (1 - sigmoid(z)));

export interface NormOptions {
  readonly groups: number;
  readonly eps: number;
  readonly silu: boolean;
  readonly gamma: Values;
  readonly beta: Values;
  /** [N, 2C]: scale, then shift. */
  readonly scaleShift?: Values;
  /** [N, C], added to x. */
  readonly addend?: Values;
}

export function groupNorm(x: Values, shape: Shape, options: NormOptions): Float64Array {
  const { groups, eps, gamma, beta, scaleShift, addend } = options;
  const { n, c, h, w } = shape;
  const size = c / groups;
  const y = new Float64Array(n * c * h * w);
  for (let i = 0; i < n; i++)
    for (let g = 0; g < groups; g++) {
      const members: { at: number; channel: number; value: number }[] = [];
      for (let channel = g * size; channel < (g + 1) * size; channel++)
        for (let p = 0; p < h * w; p++) {
          const index = (i * c + channel) * h * w + p;
          members.push({ at: index, channel, value: x[index]! + (addend?.[i * c + channel] ?? 0) });
        }
      const mean = members.reduce((sum, m) => sum + m.value, 0) / members.length;
      const variance = members.reduce((sum, m) => sum + (m.value - mean) ** 2, 0) / members.length;
      for (const { at: index, channel, value } of members) {
        let z = ((value - mean) / Math.sqrt(variance + eps)) * gamma[channel]! + beta[channel]!;
        if (scaleShift) z = z * (1 + scaleShift[i * 2 * c + channel]!) + scaleShift[i * 2 * c + c + channel]!;
        y[index] = options.silu ? silu(z) : z;
      }
    }
  return y;
}

/** q, k, v, out: [N, heads, width, T]. */
export function attention(q: Values, k: Values, v: Values, n: number, heads: number, width: number, tokens: number) {
  const out = new Float64Array(n * heads * width * tokens);
  for (let head = 0; head < n * heads; head++)
    for (let i = 0; i < tokens; i++) {
      const place = (d: number, t: number) => (head * width + d) * tokens + t;
      const scores = Array.from({ length: tokens }, (_, j) => {
        let sum = 0;
        for (let d = 0; d < width; d++) sum += q[place(d, i)]! * k[place(d, j)]!;
        return sum / Math.sqrt(width);
      });
      const peak = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - peak));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let d = 0; d < width; d++) {
        let sum = 0;
        for (let j = 0; j < tokens; j++) sum += weights[j]! * v[place(d, j)]!;
        out[place(d, i)] = sum / total;
      }
    }
  return out;
}

/** The gradients of <upstream, attention> with respect to q, k and v. */
export function attentionGradient(
  q: Values,
  k: Values,
  v: Values,
  upstream: Values,
  n: number,
  heads: number,
  width: number,
  tokens: number,
): [Float64Array, Float64Array, Float64Array] {
  const [dq, dk, dv] = [q, k, v].map(({ length }) => new Float64Array(length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const out = attention(q, k, v, n, heads, width, tokens);
  for (let head = 0; head < n * heads; head++) {
    const place = (d: number, t: number) => (head * width + d) * tokens + t;
    const inner = (a: Values, i: number, b: Values, j: number) => {
      let sum = 0;
      for (let d = 0; d < width; d++) sum += a[place(d, i)]! * b[place(d, j)]!;
      return sum;
    };
    for (let i = 0; i < tokens; i++) {
      const scores = Array.from({ length: tokens }, (_, j) => inner(q, i, k, j) / Math.sqrt(width));
      const peak = Math.max(...scores);
      const total = scores.reduce((sum, s) => sum + Math.exp(s - peak), 0);
      const delta = inner(upstream, i, out, i);
      scores.forEach((score, j) => {
        const p = Math.exp(score - peak) / total;
        const dScore = (p * (inner(upstream, i, v, j) - delta)) / Math.sqrt(width);
        for (let d = 0; d < width; d++) {
          dq[place(d, i)]! += dScore * k[place(d, j)]!;
          dk[place(d, j)]! += dScore * q[place(d, i)]!;
          dv[place(d, j)]! += p * upstream[place(d, i)]!;
        }
      });
    }
  }
  return [dq, dk, dv];
}

/**
 * The gradient of <upstream, f(x)> at x by central differences in float64: the check of references and kernels alike.
 * Its own error is about 1e-9 for the functions here.
 */
export function centralDifferences(
  f: (x: Float64Array) => Values,
  x: Values,
  upstream: Values,
  step = 1e-5,
): Float64Array {
  const point = Float64Array.from({ length: x.length }, (_, i) => x[i]!);
  const objective = () => {
    const y = f(point);
    let sum = 0;
    for (let i = 0; i < upstream.length; i++) sum += upstream[i]! * y[i]!;
    return sum;
  };
  return point.map((value, i) => {
    point[i] = value + step;
    const above = objective();
    point[i] = value - step;
    const below = objective();
    point[i] = value;
    return (above - below) / (2 * step);
  });
}
