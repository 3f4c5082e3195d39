/**
 * @file What each case should give.
 */
import {
  attentionValues,
  type Case,
  type ClassifierCase,
  convValues,
  copyValues,
  FMA,
  groupNormValues,
  isNetwork,
  networkInputs,
  type PeakCase,
} from '../cases.ts';
import { forward } from '../networks.ts';
import { Float64Operators, Value } from './float64.ts';

const constant = (values: ArrayLike<number>): Value => new Value(Float64Array.from(values), false);

export function expectedResult(c: Case): Float64Array {
  const o = new Float64Operators(c.batch);
  if (isNetwork(c)) {
    const { x, embedding } = networkInputs(c);
    const picture = new Value(Float64Array.from(x), c.op === 'gradient');
    const result = forward(o, c, picture, constant(embedding));
    if (c.op !== 'gradient') return result.data;
    o.backward(result, logProbabilitySlope(c, result.data));
    return picture.gradient!;
  }
  switch (c.op) {
    case 'fma':
      return multiplyAddChains(c);
    case 'copy':
      return Float64Array.from(copyValues(c));
    case 'conv': {
      const { x, weight, bias } = convValues(c);
      const size = { in: c.in, out: c.out, kernel: c.kernel, h: c.size, w: c.size };
      return o.conv(constant(x), constant(weight), constant(bias), size).data;
    }
    case 'groupnorm': {
      const { x, weight, bias } = groupNormValues(c);
      const size = { c: c.channels, h: c.size, w: c.size };
      return o.silu(o.groupNorm(constant(x), constant(weight), constant(bias), size)).data;
    }
    case 'attention': {
      const { q, k, v } = attentionValues(c);
      const { batch, heads, tokens, width } = c;
      const part = heads * width * tokens;
      const qkv = new Float64Array(3 * batch * part);
      // [batch, heads, tokens, width] to channels (part, head, width) by tokens, and back.
      const each = (visit: (at: number, packed: number, n: number) => void) => {
        for (let n = 0; n < batch; n++)
          for (let row = 0; row < heads * width; row++)
            for (let t = 0; t < tokens; t++) {
              const head = Math.floor(row / width);
              visit(((n * heads + head) * tokens + t) * width + (row % width), row * tokens + t, n);
            }
      };
      [q, k, v].forEach((values, i) => {
        each((at, packed, n) => {
          qkv[(3 * n + i) * part + packed] = values[at]!;
        });
      });
      const y = o.attention(constant(qkv), { c: heads * width, heads, h: 1, w: tokens }).data;
      const result = new Float64Array(y.length);
      each((at, packed, n) => {
        result[at] = y[n * part + packed]!;
      });
      return result;
    }
  }
}

/** The sum of the registers of each invocation: x times factor^n, plus a geometric series. */
function multiplyAddChains({ threads, steps }: PeakCase): Float64Array {
  const fade = FMA.factor ** steps;
  const series = (FMA.summand * (1 - fade)) / (1 - FMA.factor);
  const result = new Float64Array(4 * threads);
  for (let i = 0; i < result.length; i++) {
    for (let register = 0; register < 16; register++) {
      result[i]! += (FMA.first(i >> 2, i & 3) + register) * fade + series;
    }
  }
  return result;
}

/** Of log softmax at the label, with respect to the logits. */
function logProbabilitySlope({ batch, classes, label }: ClassifierCase, logits: Float64Array): Float64Array {
  const slope = new Float64Array(logits.length);
  for (let n = 0; n < batch; n++) {
    const row = logits.subarray(n * classes, (n + 1) * classes);
    const largest = row.reduce((a, b) => Math.max(a, b));
    const sum = row.reduce((total, v) => total + Math.exp(v - largest), 0);
    row.forEach((v, i) => {
      slope[n * classes + i] = (i === label ? 1 : 0) - Math.exp(v - largest) / sum;
    });
  }
  return slope;
}

/** Relative L2 error; infinite where the found values are not all numbers, or as many as they should be. */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  const error = Math.sqrt(difference / norm);
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
}
