/** @file Numbers that look random and repeat. */

/** Numbers in [-scale, scale): a 32-bit mixing function of the index. */
export function numbers(length: number, seed: number, scale = 1): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    let z = Math.imul(i + 1, 0x9e3779b9) ^ Math.imul(seed + 1, 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 16), 0x7feb352d);
    z = Math.imul(z ^ (z >>> 15), 0x846ca68b);
    values[i] = (((z ^ (z >>> 16)) >>> 8) / 2 ** 23 - 1) * scale;
  }
  return values;
}
