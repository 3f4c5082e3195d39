/**
 * @file TensorFlow.js on its WebGPU backend: eager, NHWC and HWIO, weights on the device, convolutions fused with their
 * bias where it can (its fused convolution has no gradient here, so the classifier adds the bias by itself).
 */
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgpu';
import {
  attentionValues,
  type ClassifierCase,
  convValues,
  groupNormValues,
  type NetworkCase,
  networkInputs,
} from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';
import { parameterValues } from '../data.ts';
import { type Shape4, toHwio, toNchw, toNhwc } from '../layouts.ts';
import { forward } from '../networks.ts';
import type { MapSize, Operators } from '../operators.ts';

/** Of the library, which this project has no types of. */
// biome-ignore lint/suspicious/noExplicitAny: see above
type Tensor = any;

/** The backend submits in batches of fifteen dispatches; this submits what is left, without reading anything back. */
function flush(): void {
  const backend = tf.backend();
  if (!backend.commandEncoder) return;
  backend.endComputePassEncoder();
  backend.submitQueue();
}

/** @param shape of a result that is a map, to be turned to NCHW */
const workload = (f: () => Tensor, shape?: Shape4): Workload => ({
  run() {
    const result = tf.tidy(f);
    flush();
    result.dispose();
  },
  async read() {
    const result = tf.tidy(f);
    const values = await result.data();
    result.dispose();
    return shape ? toNchw(values, shape) : values;
  },
});

const silu = (x: Tensor): Tensor => tf.mul(x, tf.sigmoid(x));

function groupNorm(x: Tensor, weight: Tensor, bias: Tensor, { c, h, w }: MapSize): Tensor {
  const grouped = tf.reshape(x, [-1, h * w, 32, c / 32]);
  const centred = tf.sub(grouped, tf.mean(grouped, [1, 3], true));
  const variance = tf.mean(tf.square(centred), [1, 3], true);
  const normal = tf.reshape(tf.mul(centred, tf.rsqrt(tf.add(variance, 1e-5))), [-1, h, w, c]);
  return tf.add(tf.mul(normal, weight), bias);
}

/** Each [batch, heads, tokens, width]. */
const attend = (q: Tensor, k: Tensor, v: Tensor, width: number): Tensor =>
  tf.matMul(tf.softmax(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(width))), v);

/** [batch, tokens, 3c] to [batch, tokens, c]. */
function attendPacked(qkv: Tensor, batch: number, tokens: number, c: number, heads: number): Tensor {
  const [q, k, v] = tf
    .split(qkv, 3, 2)
    .map((part: Tensor) => tf.transpose(tf.reshape(part, [batch, tokens, heads, c / heads]), [0, 2, 1, 3]));
  return tf.reshape(tf.transpose(attend(q, k, v, c / heads), [0, 2, 1, 3]), [batch, tokens, c]);
}

const fusedConv = (x: Tensor, filter: Tensor, bias: Tensor): Tensor =>
  tf.fused.conv2d({ x, filter, strides: 1, pad: 'same', bias });

/** @param kept parameters once made, across calls */
function operatorsOf(batch: number, kept: Map<string, Tensor>, fused: boolean): Operators<Tensor> {
  const make = (name: string, shape: readonly number[]): Tensor => {
    const values = parameterValues(name, shape);
    if (shape.length === 4) {
      const [o, i, h, w] = shape as unknown as Shape4;
      return tf.tensor4d(toHwio(values, [o, i, h, w]), [h, w, i, o]);
    }
    if (shape.length === 2) return tf.transpose(tf.tensor2d(values, shape));
    return tf.tensor1d(values);
  };
  const linear = (x: Tensor, weight: Tensor, bias: Tensor): Tensor => tf.add(tf.matMul(x, weight), bias);
  return {
    parameter(name, shape) {
      const tensor = kept.get(name) ?? tf.keep(tf.tidy(() => make(name, shape)));
      kept.set(name, tensor);
      return tensor;
    },
    conv: fused ? fusedConv : (x, weight, bias) => tf.add(tf.conv2d(x, weight, 1, 'same'), bias),
    groupNorm,
    silu,
    scaleShift(x, both, { c }) {
      const scale = tf.reshape(tf.slice(both, [0, 0], [-1, c]), [-1, 1, 1, c]);
      const shift = tf.reshape(tf.slice(both, [0, c], [-1, c]), [-1, 1, 1, c]);
      return tf.add(tf.mul(x, tf.add(scale, 1)), shift);
    },
    linear,
    add: (a, b) => tf.add(a, b),
    concatenate: (a, b) => tf.concat([a, b], 3),
    up: (x, { h, w }) => tf.image.resizeNearestNeighbor(x, [h * 2, w * 2]),
    down: (x) => tf.avgPool(x, 2, 2, 'valid'),
    attention(qkv, { c, h, w, heads }) {
      const tokens = h * w;
      const result = attendPacked(tf.reshape(qkv, [batch, tokens, 3 * c]), batch, tokens, c, heads);
      return tf.reshape(result, [batch, h, w, c]);
    },
    attentionPool(x, { c, h, w, heads }, p) {
      const tokens = h * w + 1;
      const flat = tf.reshape(x, [batch, h * w, c]);
      const sequence = tf.add(tf.concat([tf.mean(flat, 1, true), flat], 1), p.position);
      const qkv = linear(tf.reshape(sequence, [batch * tokens, c]), p.qkvWeight, p.qkvBias);
      const all = attendPacked(tf.reshape(qkv, [batch, tokens, 3 * c]), batch, tokens, c, heads);
      const first = tf.reshape(tf.slice(all, [0, 0, 0], [batch, 1, c]), [batch, c]);
      return linear(first, p.outWeight, p.outBias);
    },
  };
}

const picture = (values: Float32Array, shape: Shape4): Tensor => {
  const [n, c, h, w] = shape;
  return tf.tensor4d(toNhwc(values, shape), [n, h, w, c]);
};

function inputsOf(c: NetworkCase) {
  const { x, embedding } = networkInputs(c);
  return {
    x: picture(x, [c.batch, c.in, c.size, c.size]),
    t: tf.tensor2d(embedding, [c.batch, c.base]),
    kept: new Map<string, Tensor>(),
  };
}

function network(c: NetworkCase): Workload {
  const { x, t, kept } = inputsOf(c);
  const shape: Shape4 | undefined = c.op === 'unet' ? [c.batch, c.out, c.size, c.size] : undefined;
  return workload(() => forward(operatorsOf(c.batch, kept, true), c, x, t), shape);
}

export const contestant: Contestant = {
  async init() {
    if (!(await tf.setBackend('webgpu'))) throw new Error('TensorFlow.js finds no WebGPU');
    await tf.ready();
    return tf.version_core;
  },

  conv(c) {
    const { x, weight, bias } = convValues(c);
    const input = picture(x, [c.batch, c.in, c.size, c.size]);
    const filter = tf.tensor4d(toHwio(weight, [c.out, c.in, c.kernel, c.kernel]), [c.kernel, c.kernel, c.in, c.out]);
    const added = tf.tensor1d(bias);
    return workload(() => fusedConv(input, filter, added), [c.batch, c.out, c.size, c.size]);
  },

  groupnorm(c) {
    const values = groupNormValues(c);
    const shape: Shape4 = [c.batch, c.channels, c.size, c.size];
    const x = picture(values.x, shape);
    const [weight, bias] = [tf.tensor1d(values.weight), tf.tensor1d(values.bias)];
    const size = { c: c.channels, h: c.size, w: c.size };
    return workload(() => silu(groupNorm(x, weight, bias, size)), shape);
  },

  attention(c) {
    const shape = [c.batch, c.heads, c.tokens, c.width];
    const [q, k, v] = Object.values(attentionValues(c)).map((values) => tf.tensor4d(values, shape));
    return workload(() => attend(q, k, v, c.width));
  },

  unet: network,
  classifier: network,

  gradient(c: ClassifierCase) {
    const { x, t, kept } = inputsOf(c);
    const run = (from: Tensor): Tensor => forward(operatorsOf(c.batch, kept, false), c, from, t);
    tf.tidy(() => {
      run(x); // makes the parameters outside of the tape
    });
    const labels = tf.cast(tf.oneHot(tf.tensor1d(new Array(c.batch).fill(c.label), 'int32'), c.classes), 'float32');
    const gradient = tf.grad((from: Tensor) => tf.sum(tf.mul(tf.logSoftmax(run(from)), labels)));
    return workload(() => gradient(x), [c.batch, c.in, c.size, c.size]);
  },
};
