/**
 * @file Feature vectors of a set of pictures, one row each.
 */
import { OptionError } from '../runtime/errors.ts';

export interface Vectors {
  readonly count: number;
  readonly width: number;
  /** [count, width], row-major. */
  readonly data: Float64Array;
}

export function vectors(data: ArrayLike<number>, width: number): Vectors {
  if (!Number.isInteger(width) || width < 1 || data.length % width !== 0) {
    throw new OptionError(`expected rows of ${width} numbers, found ${data.length} numbers`);
  }
  return { count: data.length / width, width, data: Float64Array.from(data) };
}

/** Rows [from, to). */
export const rows = ({ count, width, data }: Vectors, from: number, to = count): Vectors => ({
  count: Math.min(to, count) - from,
  width,
  data: data.subarray(from * width, Math.min(to, count) * width),
});

export function stack(parts: readonly Vectors[]): Vectors {
  const width = parts[0]?.width ?? 1;
  const data = new Float64Array(parts.reduce((sum, part) => sum + part.data.length, 0));
  let at = 0;
  for (const part of parts) {
    if (part.width !== width) throw new OptionError(`expected rows of ${width} numbers, found rows of ${part.width}`);
    data.set(part.data, at);
    at += part.data.length;
  }
  return { count: data.length / width, width, data };
}

/** The inner product of row i of a and row j of b. */
export function inner(a: Vectors, i: number, b: Vectors, j: number): number {
  let sum = 0;
  const p = i * a.width;
  const q = j * b.width;
  for (let k = 0; k < a.width; k++) sum += a.data[p + k]! * b.data[q + k]!;
  return sum;
}

/** The squared Euclidean distance of row i of a and row j of b. */
export function squaredDistance(a: Vectors, i: number, b: Vectors, j: number): number {
  let sum = 0;
  const p = i * a.width;
  const q = j * b.width;
  for (let k = 0; k < a.width; k++) sum += (a.data[p + k]! - b.data[q + k]!) ** 2;
  return sum;
}
