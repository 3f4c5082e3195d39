/**
 * @file Pilotwave, through a built `kernels.js` and nothing else: the file that `options.build` names. So two builds can
 * be contestants of one run.
 */

import type * as Kernels from '../../../src/kernels.ts';
import {
  type AttentionCase,
  attentionValues,
  type ConvCase,
  convValues,
  type GroupNormCase,
  groupNormValues,
  type NetworkCase,
  networkInputs,
  TIMESTEP,
} from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';
import { parameterValues } from '../data.ts';
import { configOf } from '../model_config.ts';

let engine: typeof Kernels;
let runtime: Kernels.Runtime;

function tensor(shape: readonly number[], values: Float32Array): Kernels.CheckpointTensor {
  return { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

async function network(c: NetworkCase): Promise<Workload> {
  const config = configOf(c);
  const tensors = new Map(
    engine.modelParameters(config).map(({ name, shape }) => [name, tensor(shape, parameterValues(name, shape))]),
  );
  const model = engine.buildModel(runtime, { tensors, metadata: new Map() }, config);
  const gradient = c.op === 'gradient';
  const made = await engine.Network.create(runtime, model, { batch: c.batch, gradient });
  const each = <V>(value: V): V[] => new Array(c.batch).fill(value);
  made.set({
    x: networkInputs(c).x,
    timesteps: each(TIMESTEP),
    ...(c.op === 'gradient' && { labels: each(c.label) }),
  });
  return {
    run: () => made.run(),
    read: () => made.read(gradient ? 'gradient' : 'output'),
    dispose() {
      made.dispose();
      model.dispose();
    },
  };
}

/** A plan of one layer. */
async function layer(
  parameters: Readonly<Record<string, Kernels.CheckpointTensor>>,
  shape: Kernels.Shape,
  values: Float32Array,
  build: (b: Kernels.Builder, x: Kernels.Activation) => Kernels.Activation,
): Promise<Workload> {
  const weights = new engine.Weights(runtime, new Map(Object.entries(parameters)));
  const graph = new engine.Graph(runtime.target);
  const x = graph.input('x', shape);
  const y = build({ graph, weights }, x);
  const plan = await engine.Plan.create(runtime, graph, [y]);
  plan.write(x, values);
  return {
    run: () => plan.run(),
    read: () => plan.read(y),
    dispose() {
      plan.dispose();
      weights.dispose();
    },
  };
}

export const contestant: Contestant = {
  async init(options) {
    engine = await import(String(options['build']));
    runtime = new engine.Runtime(await engine.requestDevice());
    return String(options['version']);
  },

  conv(c: ConvCase) {
    const { x, weight, bias } = convValues(c);
    const parameters = {
      'conv.weight': tensor([c.out, c.in, c.kernel, c.kernel], weight),
      'conv.bias': tensor([c.out], bias),
    };
    const spec = { in: c.in, out: c.out, kernel: c.kernel as 1 | 3, stride: 1 as const };
    return layer(parameters, { n: c.batch, c: c.in, h: c.size, w: c.size }, x, (b, input) =>
      engine.conv2d.forward(b, spec, 'conv', input),
    );
  },

  groupnorm(c: GroupNormCase) {
    const { x, weight, bias } = groupNormValues(c);
    const parameters = { 'norm.weight': tensor([c.channels], weight), 'norm.bias': tensor([c.channels], bias) };
    const spec = { channels: c.channels, groups: 32, eps: 1e-5, silu: true };
    return layer(parameters, { n: c.batch, c: c.channels, h: c.size, w: c.size }, x, (b, input) =>
      engine.groupNorm.forward(b, spec, 'norm', input),
    );
  },

  async attention(c: AttentionCase) {
    const { heads, tokens, width, batch } = c;
    const channels = heads * 3 * width;
    const qkv = new Float32Array(batch * channels * tokens);
    const { q, k, v } = attentionValues(c);
    // [batch, heads, tokens, width] to channels (head, part, width) by tokens.
    [q, k, v].forEach((values, part) => {
      for (let head = 0; head < batch * heads; head++)
        for (let t = 0; t < tokens; t++)
          for (let i = 0; i < width; i++)
            qkv[((head * 3 + part) * width + i) * tokens + t] = values[(head * tokens + t) * width + i]!;
    });
    const made = await layer({}, { n: batch, c: channels, h: 1, w: tokens }, qkv, (b, input) =>
      engine.attention.forward(b.graph, { heads, width }, input),
    );
    return {
      ...made,
      async read() {
        const packed = await made.read();
        const result = new Float32Array(packed.length);
        for (let head = 0; head < batch * heads; head++)
          for (let t = 0; t < tokens; t++)
            for (let i = 0; i < width; i++)
              result[(head * tokens + t) * width + i] = packed[(head * width + i) * tokens + t]!;
        return result;
      },
    };
  },

  unet: network,
  classifier: network,
  gradient: network,
};
