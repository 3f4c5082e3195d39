/**
 * @file Golden kinds `op.*`: single operations and their input gradients.
 */
import { imageBytes } from '../../diffusion/image.ts';
import * as attention from '../../layers/attention.ts';
import * as attentionPool from '../../layers/attention_pool.ts';
import { select } from '../../layers/classifier.ts';
import * as conv2d from '../../layers/conv2d.ts';
import { silu } from '../../layers/elementwise.ts';
import { timestepEmbedding } from '../../layers/embedding.ts';
import * as groupNorm from '../../layers/group_norm.ts';
import * as linear from '../../layers/linear.ts';
import { bilinear, downsample, upsample } from '../../layers/resample.ts';
import type { Runtime } from '../../runtime/device.ts';
import type { Activation, Shape } from '../../runtime/resources.ts';
import type { ChannelMap } from '../../runtime/weights.ts';
import { type Evaluation, evaluate, type Results } from './evaluate.ts';
import type { CaseTensors, GoldenCase } from './manifest.ts';

/** [N, C, H, W], [N, C, T], [N, C] or [N] as the engine's shape. */
export function shapeOf(shape: readonly number[]): Shape {
  const [n = 1, c = 1, h = 1, w] = shape;
  if (shape.length === 1) return { n: 1, c: 1, h: 1, w: n };
  return w === undefined ? { n, c, h: 1, w: h } : { n, c, h, w };
}

/** The usual form: x in, out and grad_x back. */
async function unary(
  runtime: Runtime,
  tensors: CaseTensors,
  forward: (e: Evaluation, x: Activation) => Activation,
): Promise<Results> {
  return evaluate(runtime, tensors.parameters('op'), (e) => {
    const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
    const y = forward(e, x);
    e.output('out', y);
    e.gradient('grad_x', y, tensors.floats('upstream'), x);
  });
}

type Runner = (runtime: Runtime, golden: GoldenCase, tensors: CaseTensors) => Promise<Results>;

const convSpec = (config: GoldenCase['config']): conv2d.Conv2d => ({
  in: config.in_channels,
  out: config.out_channels,
  kernel: config.kernel_size,
  stride: config.stride ?? 1,
});

const resample =
  (step: typeof upsample, convFirst: boolean): Runner =>
  (runtime, { config }, tensors) =>
    unary(runtime, tensors, (e, x) => {
      if (!config.use_conv) return step(e.graph, x);
      const spec = { in: config.channels, out: config.out_channels, kernel: 3, stride: convFirst ? 2 : 1 } as const;
      return convFirst ? conv2d.forward(e, spec, 'op.op', x) : conv2d.forward(e, spec, 'op.conv', step(e.graph, x));
    });

/** Moves channels by a map, as the packed weights around attention do inside a model. */
function permute(
  data: Float32Array,
  shape: Shape,
  map: ChannelMap | null,
  inverse = false,
): { data: Float32Array; shape: Shape } {
  if (!map) return { data, shape };
  const area = shape.h * shape.w;
  const stored = map.reduce((count, from) => count + (from >= 0 ? 1 : 0), 0);
  const [from, to] = inverse ? [map.length, stored] : [stored, map.length];
  const result = new Float32Array(shape.n * to * area);
  for (let n = 0; n < shape.n; n++) {
    map.forEach((source, packed) => {
      if (source < 0) return;
      const [a, b] = inverse ? [packed, source] : [source, packed];
      const row = data.subarray((n * from + a) * area, (n * from + a + 1) * area);
      result.set(row, (n * to + b) * area);
    });
  }
  return { data: result, shape: { ...shape, c: to } };
}

const attentionCase: Runner = async (runtime, { config }, tensors) => {
  const head = { heads: config.num_heads, width: config.head_channels };
  const maps = attention.channelMaps(head, config.order);
  const shape = shapeOf(tensors.values('x').shape);
  const x = permute(tensors.floats('x'), shape, maps.qkv);
  const outShape = { ...shape, c: head.heads * head.width };
  const upstream = permute(tensors.floats('upstream'), outShape, maps.out);
  const results = await evaluate(runtime, { tensors: new Map(), metadata: new Map() }, (e) => {
    const qkv = e.input('x', x.shape, x.data);
    const y = attention.forward(e.graph, head, qkv);
    e.output('out', y);
    e.gradient('grad_x', y, upstream.data, qkv);
  });
  return {
    out: permute(results['out']!, upstream.shape, maps.out, true).data,
    grad_x: permute(results['grad_x']!, x.shape, maps.qkv, true).data,
  };
};

const groupNormCase: Runner = (runtime, { config }, tensors) => {
  const spec = { channels: config.channels, groups: config.groups, eps: config.eps, silu: config.mode !== 'plain' };
  return evaluate(runtime, tensors.parameters('op'), (e) => {
    const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
    let embedding: groupNorm.Embedding | null = null;
    if (config.mode === 'scaleshift_silu') {
      const tensor = e.input('emb', shapeOf(tensors.values('emb').shape), tensors.floats('emb'));
      embedding = { tensor, offset: 0, mode: 'scale-shift' };
    }
    const y = groupNorm.forward(e, spec, 'op', x, embedding);
    e.output('out', y);
    e.gradient('grad_x', y, tensors.floats('upstream'), x);
    if (embedding) e.gradient('grad_emb', y, tensors.floats('upstream'), embedding.tensor);
  });
};

export const operations: Readonly<Record<string, Runner>> = {
  'op.conv2d': (runtime, { config }, tensors) =>
    unary(runtime, tensors, (e, x) => conv2d.forward(e, convSpec(config), 'op', x)),
  'op.conv1d': (runtime, _golden, tensors) => unary(runtime, tensors, (e, x) => linear.forward(e, 'op', x)),
  'op.linear': (runtime, _golden, tensors) => unary(runtime, tensors, (e, x) => linear.forward(e, 'op', x)),
  'op.silu': (runtime, _golden, tensors) => unary(runtime, tensors, (e, x) => silu(e.graph, x)),
  'op.upsample': resample(upsample, false),
  'op.downsample': resample(downsample, true),
  'op.bilinear': (runtime, { config }, tensors) =>
    unary(runtime, tensors, (e, x) => bilinear(e.graph, x, config.size[0], config.size[1])),
  'op.groupnorm': groupNormCase,
  'op.attention': attentionCase,
  'op.attention_pool2d': (runtime, { config }, tensors) =>
    unary(runtime, tensors, (e, x) => {
      const { spacial_dim: size, embed_dim: channels, num_heads_channels: headChannels, output_dim: out } = config;
      return attentionPool.forward(e, { size, channels, headChannels, out: out ?? channels }, 'op', x);
    }),
  'op.timestep_embedding': async (_runtime, { config }, tensors) => ({
    out: timestepEmbedding(tensors.numbers('t'), config.dim, config.max_period),
  }),
  'op.image_uint8': async (_runtime, _golden, tensors) => ({ out: imageBytes(tensors.floats('x')) }),
  'op.log_softmax_select': (runtime, _golden, tensors) =>
    evaluate(runtime, { tensors: new Map(), metadata: new Map() }, (e) => {
      const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
      const { selected } = select(e.graph, x, e.words('y', Uint32Array.from(tensors.numbers('y'))));
      e.output('out', selected);
      e.gradient('grad_x', selected, tensors.floats('upstream'), x);
    }),
};
