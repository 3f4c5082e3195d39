/**
 * @file Between NCHW, the public order, and [N, H, W, ceil(C / 4)] of vec4f, the kernels' order.
 */
import { describeShape, quads, type Shape } from './resources.ts';

/** @throws RangeError if `data` has not N * C * H * W values */
export function fromNCHW(data: Float32Array, shape: Shape): Float32Array {
  const { n, h, w, c } = shape;
  if (data.length !== n * h * w * c) {
    throw new RangeError(`expected ${n * h * w * c} values for ${describeShape(shape)}, found ${data.length}`);
  }
  const stride = quads(c) * 4;
  const area = h * w;
  const packed = new Float32Array(n * area * stride);
  for (let i = 0; i < n; i++) {
    for (let channel = 0; channel < c; channel++) {
      const from = (i * c + channel) * area;
      let to = i * area * stride + channel;
      for (let p = 0; p < area; p++, to += stride) packed[to] = data[from + p]!;
    }
  }
  return packed;
}

export function toNCHW(packed: Float32Array, { n, h, w, c }: Shape): Float32Array {
  const stride = quads(c) * 4;
  const area = h * w;
  const data = new Float32Array(n * c * area);
  for (let i = 0; i < n; i++) {
    for (let channel = 0; channel < c; channel++) {
      const to = (i * c + channel) * area;
      let from = i * area * stride + channel;
      for (let p = 0; p < area; p++, from += stride) data[to + p] = packed[from]!;
    }
  }
  return data;
}
