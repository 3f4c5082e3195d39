/**
 * @file The networks' operators in float64 and plain loops, with their gradients: what every contestant is held against.
 *
 * A value remembers how to hand its gradient on to the values it came from. Gradients are wanted for the picture alone, so
 * parameters and what depends only on them and on the timestep have none. Loops run along rows, which is all that is done
 * for speed.
 */
import { parameterValues } from '../data.ts';
import type { MapSize, Operators } from '../operators.ts';

const GROUPS = 32;
const EPSILON = 1e-5;

export class Value {
  readonly data: Float64Array;
  /** Of the result with respect to this; null where nobody wants it. */
  readonly gradient: Float64Array | null;

  constructor(data: Float64Array, wanted: boolean) {
    this.data = data;
    this.gradient = wanted ? new Float64Array(data.length) : null;
  }
}

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** y[from ...] += factor * x[at ...], `count` numbers. */
function addScaled(y: Float64Array, from: number, x: Float64Array, at: number, count: number, factor: number): void {
  for (let i = 0; i < count; i++) y[from + i]! += factor * x[at + i]!;
}

export class Float64Operators implements Operators<Value> {
  readonly #batch: number;
  readonly #tape: (() => void)[] = [];

  constructor(batch: number) {
    this.#batch = batch;
  }

  /** The gradient of the sum of `seed` times `result`, added up in every value on the way. */
  backward(result: Value, seed: Float64Array): void {
    result.gradient!.set(seed);
    for (const step of this.#tape.reverse()) step();
  }

  parameter(name: string, shape: readonly number[]): Value {
    return new Value(Float64Array.from(parameterValues(name, shape)), false);
  }

  conv(
    x: Value,
    weight: Value,
    bias: Value,
    { in: inputs, out, kernel, h, w }: { in: number; out: number; kernel: number; h: number; w: number },
  ): Value {
    const y = this.#make(this.#batch * out * h * w, x);
    const pad = (kernel - 1) / 2;
    /** Every pair of rows that a tap connects: where they begin, how long they are, the tap's weight. */
    const rows = (visit: (from: number, to: number, count: number, factor: number) => void) => {
      for (let n = 0; n < this.#batch; n++)
        for (let o = 0; o < out; o++)
          for (let i = 0; i < inputs; i++)
            for (let ky = 0; ky < kernel; ky++)
              for (let kx = 0; kx < kernel; kx++) {
                const factor = weight.data[((o * inputs + i) * kernel + ky) * kernel + kx]!;
                const left = Math.max(0, pad - kx);
                const count = w - Math.abs(kx - pad);
                for (let row = Math.max(0, pad - ky); row < Math.min(h, h + pad - ky); row++) {
                  const from = ((n * inputs + i) * h + row + ky - pad) * w + left + kx - pad;
                  visit(from, ((n * out + o) * h + row) * w + left, count, factor);
                }
              }
    };
    for (let n = 0; n < this.#batch; n++)
      for (let o = 0; o < out; o++) y.data.fill(bias.data[o]!, (n * out + o) * h * w, (n * out + o + 1) * h * w);
    rows((from, to, count, factor) => addScaled(y.data, to, x.data, from, count, factor));
    this.#then(x, y, (dx, dy) => rows((from, to, count, factor) => addScaled(dx, from, dy, to, count, factor)));
    return y;
  }

  groupNorm(x: Value, weight: Value, bias: Value, { c, h, w }: MapSize): Value {
    const y = this.#make(x.data.length, x);
    const pixels = h * w;
    const count = (c / GROUPS) * pixels;
    const normal = new Float64Array(x.data.length);
    const inverse: number[] = [];
    const channelOf = (i: number) => Math.floor(i / pixels) % c;
    for (let start = 0; start < x.data.length; start += count) {
      const group = x.data.subarray(start, start + count);
      const mean = group.reduce((sum, v) => sum + v, 0) / count;
      const variance = group.reduce((sum, v) => sum + (v - mean) ** 2, 0) / count;
      const scale = 1 / Math.sqrt(variance + EPSILON);
      inverse.push(scale);
      for (let i = start; i < start + count; i++) {
        normal[i] = (x.data[i]! - mean) * scale;
        y.data[i] = normal[i]! * weight.data[channelOf(i)]! + bias.data[channelOf(i)]!;
      }
    }
    this.#then(x, y, (dx, dy) => {
      inverse.forEach((scale, group) => {
        let mean = 0;
        let along = 0;
        for (let i = group * count; i < (group + 1) * count; i++) {
          const g = dy[i]! * weight.data[channelOf(i)]!;
          mean += g / count;
          along += (g * normal[i]!) / count;
        }
        for (let i = group * count; i < (group + 1) * count; i++) {
          dx[i]! += scale * (dy[i]! * weight.data[channelOf(i)]! - mean - normal[i]! * along);
        }
      });
    });
    return y;
  }

  silu(x: Value): Value {
    const y = this.#make(x.data.length, x);
    for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[i]! * sigmoid(x.data[i]!);
    this.#then(x, y, (dx, dy) => {
      for (let i = 0; i < dx.length; i++) {
        const s = sigmoid(x.data[i]!);
        dx[i]! += dy[i]! * s * (1 + x.data[i]! * (1 - s));
      }
    });
    return y;
  }

  scaleShift(x: Value, scaleAndShift: Value, { c, h, w }: MapSize): Value {
    const y = this.#make(x.data.length, x);
    const scaleAt = (i: number): number => {
      const map = Math.floor(i / (h * w));
      return Math.floor(map / c) * 2 * c + (map % c);
    };
    const { data } = scaleAndShift;
    for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[i]! * (1 + data[scaleAt(i)]!) + data[scaleAt(i) + c]!;
    this.#then(x, y, (dx, dy) => {
      for (let i = 0; i < dx.length; i++) dx[i]! += dy[i]! * (1 + data[scaleAt(i)]!);
    });
    return y;
  }

  linear(x: Value, weight: Value, bias: Value, size: { in: number; out: number }): Value {
    return this.conv(x, weight, bias, { ...size, kernel: 1, h: 1, w: 1 });
  }

  add(a: Value, b: Value): Value {
    const y = this.#make(a.data.length, a, b);
    for (let i = 0; i < y.data.length; i++) y.data[i] = a.data[i]! + b.data[i]!;
    for (const x of [a, b]) this.#then(x, y, (dx, dy) => addScaled(dx, 0, dy, 0, dy.length, 1));
    return y;
  }

  concatenate(a: Value, b: Value): Value {
    const y = this.#make(a.data.length + b.data.length, a, b);
    const image = y.data.length / this.#batch;
    let before = 0;
    for (const x of [a, b]) {
      const own = x.data.length / this.#batch;
      const start = before;
      for (let n = 0; n < this.#batch; n++) y.data.set(x.data.subarray(n * own, (n + 1) * own), n * image + start);
      this.#then(x, y, (dx, dy) => {
        for (let n = 0; n < this.#batch; n++) addScaled(dx, n * own, dy, n * image + start, own, 1);
      });
      before += own;
    }
    return y;
  }

  up(x: Value, { w }: MapSize): Value {
    const y = this.#make(4 * x.data.length, x);
    const from = (i: number): number => {
      const row = Math.floor(i / (2 * w));
      return (row >> 1) * w + ((i - row * 2 * w) >> 1);
    };
    for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[from(i)]!;
    this.#then(x, y, (dx, dy) => {
      for (let i = 0; i < dy.length; i++) dx[from(i)]! += dy[i]!;
    });
    return y;
  }

  down(x: Value, { w }: MapSize): Value {
    const y = this.#make(x.data.length / 4, x);
    const to = (i: number): number => {
      const row = Math.floor(i / w);
      return (row >> 1) * (w / 2) + ((i - row * w) >> 1);
    };
    for (let i = 0; i < x.data.length; i++) y.data[to(i)]! += x.data[i]! / 4;
    this.#then(x, y, (dx, dy) => {
      for (let i = 0; i < dx.length; i++) dx[i]! += dy[to(i)]! / 4;
    });
    return y;
  }

  attention(qkv: Value, { c, h, w, heads }: MapSize & { readonly heads: number }): Value {
    const tokens = h * w;
    const width = c / heads;
    const y = this.#make(this.#batch * c * tokens, qkv);
    /** Rows of probabilities, a query each. */
    const visit = (
      work: (rows: { q: number; k: number; v: number; y: number }, token: number, p: Float64Array) => void,
    ) => {
      for (let n = 0; n < this.#batch; n++)
        for (let head = 0; head < heads; head++) {
          const start = n * 3 * c + head * width;
          const rows = {
            q: start * tokens,
            k: (start + c) * tokens,
            v: (start + 2 * c) * tokens,
            y: (n * c + head * width) * tokens,
          };
          for (let token = 0; token < tokens; token++) {
            const p = new Float64Array(tokens);
            for (let d = 0; d < width; d++) {
              const q = qkv.data[rows.q + d * tokens + token]! / Math.sqrt(width);
              addScaled(p, 0, qkv.data, rows.k + d * tokens, tokens, q);
            }
            const largest = p.reduce((a, b) => Math.max(a, b));
            for (let i = 0; i < tokens; i++) p[i] = Math.exp(p[i]! - largest);
            const sum = p.reduce((a, b) => a + b);
            for (let i = 0; i < tokens; i++) p[i]! /= sum;
            work(rows, token, p);
          }
        }
    };
    visit((rows, token, p) => {
      for (let d = 0; d < width; d++) {
        let sum = 0;
        for (let i = 0; i < tokens; i++) sum += p[i]! * qkv.data[rows.v + d * tokens + i]!;
        y.data[rows.y + d * tokens + token] = sum;
      }
    });
    this.#then(qkv, y, (dx, dy) => {
      visit((rows, token, p) => {
        const dp = new Float64Array(tokens);
        for (let d = 0; d < width; d++) {
          const g = dy[rows.y + d * tokens + token]!;
          addScaled(dp, 0, qkv.data, rows.v + d * tokens, tokens, g);
          addScaled(dx, rows.v + d * tokens, p, 0, tokens, g);
        }
        let along = 0;
        for (let i = 0; i < tokens; i++) along += p[i]! * dp[i]!;
        const ds = dp.map((g, i) => (p[i]! * (g - along)) / Math.sqrt(width));
        for (let d = 0; d < width; d++) {
          let sum = 0;
          for (let i = 0; i < tokens; i++) sum += ds[i]! * qkv.data[rows.k + d * tokens + i]!;
          dx[rows.q + d * tokens + token]! += sum;
          addScaled(dx, rows.k + d * tokens, ds, 0, tokens, qkv.data[rows.q + d * tokens + token]!);
        }
      });
    });
    return y;
  }

  attentionPool(
    x: Value,
    { c, h, w, heads }: MapSize & { readonly heads: number },
    p: { position: Value; qkvWeight: Value; qkvBias: Value; outWeight: Value; outBias: Value },
  ): Value {
    const tokens = h * w + 1;
    const sequence = this.#withMean(x, c, h * w, p.position.data);
    const line = { h: 1, w: tokens };
    const qkv = this.conv(sequence, p.qkvWeight, p.qkvBias, { in: c, out: 3 * c, kernel: 1, ...line });
    const all = this.attention(qkv, { c, heads, ...line });
    const first = this.#make(this.#batch * c, all);
    for (let i = 0; i < first.data.length; i++) first.data[i] = all.data[i * tokens]!;
    this.#then(all, first, (dx, dy) => {
      for (let i = 0; i < dy.length; i++) dx[i * tokens]! += dy[i]!;
    });
    return this.linear(first, p.outWeight, p.outBias, { in: c, out: p.outBias.data.length });
  }

  /** [batch, c, pixels] with each row's mean before it, and positions added. */
  #withMean(x: Value, c: number, pixels: number, position: Float64Array): Value {
    const tokens = pixels + 1;
    const y = this.#make(this.#batch * c * tokens, x);
    for (let row = 0; row < this.#batch * c; row++) {
      const values = x.data.subarray(row * pixels, (row + 1) * pixels);
      y.data.set(values, row * tokens + 1);
      y.data[row * tokens] = values.reduce((a, b) => a + b, 0) / pixels;
      addScaled(y.data, row * tokens, position, (row % c) * tokens, tokens, 1);
    }
    this.#then(x, y, (dx, dy) => {
      for (let row = 0; row < this.#batch * c; row++)
        for (let i = 0; i < pixels; i++)
          dx[row * pixels + i]! += dy[row * tokens + 1 + i]! + dy[row * tokens]! / pixels;
    });
    return y;
  }

  #make(count: number, ...from: readonly Value[]): Value {
    return new Value(
      new Float64Array(count),
      from.some((x) => x.gradient !== null),
    );
  }

  /** Notes how the gradient of y adds to that of x. */
  #then(x: Value, y: Value, work: (dx: Float64Array, dy: Float64Array) => void): void {
    const { gradient } = x;
    if (gradient) this.#tape.push(() => work(gradient, y.gradient!));
  }
}
