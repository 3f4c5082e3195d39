/** @file Layouts on the host, for contestants that want other ones than PyTorch's. */
export type Shape4 = readonly [number, number, number, number];

/** [a, b, c] to [a, c, b]. */
function swap(values: ArrayLike<number>, a: number, b: number, c: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let i = 0; i < a; i++)
    for (let j = 0; j < b; j++) for (let k = 0; k < c; k++) result[(i * c + k) * b + j] = values[(i * b + j) * c + k]!;
  return result;
}

export const toNhwc = (values: ArrayLike<number>, [n, c, h, w]: Shape4): Float32Array => swap(values, n, c, h * w);

/** @param shape that of the result */
export const toNchw = (values: ArrayLike<number>, [n, c, h, w]: Shape4): Float32Array => swap(values, n, h * w, c);

export function toHwio(values: ArrayLike<number>, [o, i, h, w]: Shape4): Float32Array {
  const result = new Float32Array(values.length);
  for (let a = 0; a < o; a++)
    for (let b = 0; b < i; b++)
      for (let p = 0; p < h * w; p++) result[(p * i + b) * o + a] = values[(a * i + b) * h * w + p]!;
  return result;
}
