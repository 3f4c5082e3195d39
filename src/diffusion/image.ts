/**
 * @file From samples to bytes.
 */

/**
 * Samples of about [-1, 1] as bytes: (x + 1) * 127.5 in float32, clamped to [0, 255] and truncated, not rounded, as
 * guided-diffusion saves its pictures.
 */
export function imageBytes(samples: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    const value = Math.fround(Math.fround(Math.fround(samples[i]!) + 1) * 127.5);
    bytes[i] = Math.trunc(Math.min(255, Math.max(0, value)));
  }
  return bytes;
}
