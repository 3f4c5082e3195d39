/**
 * @file jax-js on its WebGPU backend, everything under jit(), NCHW and OIHW.
 *
 * Its functions consume their arguments; `.ref` keeps one for later. Two things are written around faults of 0.1.25:
 * jit(grad(f)) gives a wrong gradient for such a classifier (relative error about 1, on its CPU backend too), grad(jit(f))
 * the right one; and einsum needs Iterator.prototype.map, which Node has from 22 on.
 */
import { defaultDevice, grad, init, jit, lax, nn, numpy as np, tree } from '@jax-js/jax';
import {
  attentionValues,
  type ClassifierCase,
  convValues,
  groupNormValues,
  type NetworkCase,
  networkInputs,
} from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';
import { countWork } from '../count.ts';
import { parameterValues } from '../data.ts';
import { forward } from '../networks.ts';
import type { MapSize, Operators } from '../operators.ts';

/** Of the library, which this project has no types of. */
// biome-ignore lint/suspicious/noExplicitAny: see above
type Tensor = any;
type Parameters = Readonly<Record<string, Tensor>>;

const VERSION = '0.1.25';

const array = (values: Float32Array, shape: readonly number[]): Tensor => np.array(values).reshape(shape);

/** @param values what the function is called with, each kept */
const workload = (f: (...values: Tensor[]) => Tensor, values: () => Tensor[]): Workload => ({
  async run() {
    const result = f(...values());
    await result.gpuBuffer(); // makes and submits; does not wait for the device
  },
  read: async () => f(...values()).data(),
});

/** Consumes all but x, of which it uses the reference. */
function groupNorm(x: Tensor, weight: Tensor, bias: Tensor, batch: number, { c, h, w }: MapSize): Tensor {
  const grouped = x.reshape([batch, 32, (c / 32) * h * w]);
  const mean = np.mean(grouped.ref, 2, { keepdims: true });
  const centred = grouped.sub(mean);
  const variance = np.mean(np.square(centred.ref), 2, { keepdims: true });
  const normal = centred.mul(np.reciprocal(np.sqrt(variance.add(1e-5)))).reshape([batch, c, h, w]);
  return normal.mul(weight.reshape([1, c, 1, 1])).add(bias.reshape([1, c, 1, 1]));
}

/** Each [batch, heads, tokens, width]. */
const attend = (q: Tensor, k: Tensor, v: Tensor, width: number): Tensor =>
  np.matmul(nn.softmax(np.matmul(q, np.transpose(k, [0, 1, 3, 2])).mul(1 / Math.sqrt(width)), -1), v);

const same = (kernel: number) => {
  const pad = (kernel - 1) / 2;
  return [
    [pad, pad],
    [pad, pad],
  ];
};

/** None of these consumes what it is given. */
function operatorsOf(parameters: Parameters, batch: number): Operators<Tensor> {
  /** @param qkv [batch, 3, heads, width, tokens], consumed @returns [batch, heads, width, tokens] */
  const attendPacked = (qkv: Tensor, width: number): Tensor => {
    const [q, k, v] = [0, 1, 2].map((part) => np.transpose(qkv.ref.slice([], part), [0, 1, 3, 2]));
    return np.transpose(attend(q, k, v, width), [0, 1, 3, 2]);
  };
  return {
    parameter: (name) => parameters[name],
    conv: (x, weight, bias, { kernel, out }) =>
      lax.conv(x.ref, weight.ref, [1, 1], same(kernel)).add(bias.ref.reshape([1, out, 1, 1])),
    groupNorm: (x, weight, bias, size) => groupNorm(x.ref, weight.ref, bias.ref, batch, size),
    silu: (x) => nn.silu(x.ref),
    scaleShift(x, both, { c }) {
      const scale = both.ref.slice([], [0, c]).reshape([batch, c, 1, 1]);
      const shift = both.ref.slice([], [c, 2 * c]).reshape([batch, c, 1, 1]);
      return x.ref.mul(scale.add(1)).add(shift);
    },
    linear: (x, weight, bias) => np.matmul(x.ref, np.transpose(weight.ref)).add(bias.ref),
    add: (a, b) => a.ref.add(b.ref),
    concatenate: (a, b) => np.concatenate([a.ref, b.ref], 1),
    up: (x, { c, h, w }) =>
      np.broadcastTo(x.ref.reshape([batch, c, h, 1, w, 1]), [batch, c, h, 2, w, 2]).reshape([batch, c, h * 2, w * 2]),
    down: (x, { c, h, w }) => np.mean(x.ref.reshape([batch, c, h / 2, 2, w / 2, 2]), [3, 5]),
    attention(qkv, { c, h, w, heads }) {
      const packed = qkv.ref.reshape([batch, 3, heads, c / heads, h * w]);
      return attendPacked(packed, c / heads).reshape([batch, c, h, w]);
    },
    attentionPool(x, { c, h, w, heads }, p) {
      const tokens = h * w + 1;
      const flat = x.ref.reshape([batch, c, h * w]);
      const mean = np.mean(flat.ref, 2, { keepdims: true });
      const sequence = np.concatenate([mean, flat], 2).add(p.position.ref);
      const product = np.matmul(np.transpose(sequence, [0, 2, 1]), np.transpose(p.qkvWeight.ref));
      const qkv = np.transpose(product, [0, 2, 1]).add(p.qkvBias.ref.reshape([3 * c, 1]));
      const all = attendPacked(qkv.reshape([batch, 3, heads, c / heads, tokens]), c / heads);
      const first = all.reshape([batch, c, tokens]).slice([], [], 0);
      return np.matmul(first, np.transpose(p.outWeight.ref)).add(p.outBias.ref);
    },
  };
}

function inputsOf(c: NetworkCase) {
  const { x, embedding } = networkInputs(c);
  const parameters: Parameters = Object.fromEntries(
    countWork(c).parameters.map(({ name, shape }) => [name, array(parameterValues(name, shape), shape)]),
  );
  return { x: array(x, [c.batch, c.in, c.size, c.size]), t: array(embedding, [c.batch, c.base]), parameters };
}

function network(c: NetworkCase): Workload {
  const { x, t, parameters } = inputsOf(c);
  const f = jit((p: Parameters, picture: Tensor, time: Tensor) => forward(operatorsOf(p, c.batch), c, picture, time));
  return workload(f, () => [tree.ref(parameters), x.ref, t.ref]);
}

export const contestant: Contestant = {
  async init() {
    const backends = await init('webgpu');
    if (!backends.includes('webgpu')) throw new Error('jax-js finds no WebGPU');
    defaultDevice('webgpu');
    return VERSION;
  },

  conv(c) {
    const { x, weight, bias } = convValues(c);
    const inputs = [
      array(x, [c.batch, c.in, c.size, c.size]),
      array(weight, [c.out, c.in, c.kernel, c.kernel]),
      array(bias, [1, c.out, 1, 1]),
    ];
    const f = jit((a: Tensor, w: Tensor, b: Tensor) => lax.conv(a, w, [1, 1], same(c.kernel)).add(b));
    return workload(f, () => inputs.map((input) => input.ref));
  },

  groupnorm(c) {
    const { x, weight, bias } = groupNormValues(c);
    const size = { c: c.channels, h: c.size, w: c.size };
    const inputs = [array(x, [c.batch, c.channels, c.size, c.size]), np.array(weight), np.array(bias)];
    const f = jit((a: Tensor, w: Tensor, b: Tensor) => nn.silu(groupNorm(a, w, b, c.batch, size)));
    return workload(f, () => inputs.map((input) => input.ref));
  },

  attention(c) {
    const shape = [c.batch, c.heads, c.tokens, c.width];
    const inputs = Object.values(attentionValues(c)).map((values) => array(values, shape));
    const f = jit((q: Tensor, k: Tensor, v: Tensor) => attend(q, k, v, c.width));
    return workload(f, () => inputs.map((input) => input.ref));
  },

  unet: network,
  classifier: network,

  gradient(c: ClassifierCase) {
    const { x, t, parameters } = inputsOf(c);
    const logProbability = (picture: Tensor, p: Parameters, time: Tensor) =>
      np.sum(nn.logSoftmax(forward(operatorsOf(p, c.batch), c, picture, time), -1).slice([], c.label));
    return workload(grad(jit(logProbability)), () => [x.ref, tree.ref(parameters), t.ref]);
  },
};
