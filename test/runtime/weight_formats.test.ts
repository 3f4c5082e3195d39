import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import attentionForward from '../../shaders/attention/forward.wgsl';
import convForward from '../../shaders/conv2d/forward.wgsl';
import { modelParameters } from '../../src/checkpoints/config.ts';
import { convertCheckpoint, type NumberFormat } from '../../src/checkpoints/convert.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { buildModel, type Model } from '../../src/checkpoints/model.ts';
import { openCheckpoint } from '../../src/checkpoints/read.ts';
import { readSafetensors, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { memorySource } from '../../src/checkpoints/source.ts';
import { type Evaluation, evaluate } from '../../src/cli/verify/evaluate.ts';
import { timestepEmbedding } from '../../src/layers/embedding.ts';
import * as unet from '../../src/layers/unet.ts';
import type { Target } from '../../src/runtime/graph.ts';
import { readWeightsAs } from '../../src/runtime/weight_formats.ts';
import { expectClose, testRuntime, values } from '../device.ts';
import { UNET_FILE } from '../models.ts';

const runtime = await testRuntime();

async function converted(file: Uint8Array, format: NumberFormat): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    parts.push(bytes.slice());
  };
  await convertCheckpoint(await openCheckpoint(memorySource(file)), write, { format });
  return Buffer.concat(parts);
}

/** A U-Net with every way to read a matrix: strides, channel maps of odd heads, stacked projections, 1 x 1 and 3 x 3. */
async function smallUnet(): Promise<Uint8Array> {
  const flags = parseFlags(
    '--image_size 8 --channel_mult 1,2 --num_channels 32 --num_res_blocks 1 --attention_resolutions 4',
  );
  const base = flags.config('unet');
  const config = { ...base, model: { ...base.model, num_heads: 32 / 2 } };
  const tensors = Object.fromEntries(
    modelParameters(config).map(({ name, shape }, i) => {
      const fan = shape.slice(1).reduce((a, b) => a * b, 1);
      const spread = shape.length < 2 ? 0.1 : 1.5 / Math.sqrt(fan);
      const data = values(
        shape.reduce((a, b) => a * b, 1),
        i + 1,
        spread,
      );
      const norm = /(in_layers.0|out_layers.0|norm|out.0).weight$/.test(name);
      return [name, { dtype: 'F32' as const, shape, data: norm ? data.map((v) => 1 + v) : data }];
    }),
  );
  const parts: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    parts.push(bytes.slice());
  };
  const file = await openCheckpoint(memorySource(writeSafetensors(tensors)));
  await convertCheckpoint(file, write, { format: 'f32', config });
  return Buffer.concat(parts);
}

/** One way to compute, whatever the format, so that only the reading of matrices differs. */
const target: Target = { ...runtime.target, variants: { conv2d: 'registers', linear: 'registers' } };

/** Output and input gradient. */
async function run(model: Model): Promise<{ out: Float32Array; gradient: Float32Array; bytes: number }> {
  const { image_size: size, in_channels: channels, model_channels: width } = model.config.model;
  const shape = { n: 2, c: channels, h: size, w: size };
  const build = (e: Evaluation) => {
    const x = e.input('x', shape, values(2 * channels * size * size, 77));
    const timesteps = e.input('t', { n: 2, c: width, h: 1, w: 1 }, timestepEmbedding([10, 500], width));
    const y = unet.forward(e, model.config.model as unet.UNetArguments, { x, timesteps, labels: null });
    const { n, c, h, w } = y.shape;
    e.output('out', y);
    e.gradient('gradient', y, values(n * c * h * w, 78), x);
  };
  const result = await evaluate(runtime, model.weights, build, target);
  return { out: result['out']!, gradient: result['gradient']!, bytes: model.weights.bytes };
}

async function both(file: Uint8Array) {
  const results = [];
  for (const storage of ['stored', 'f32'] as const) {
    const model = buildModel(runtime, readSafetensors(file), undefined, { storage });
    results.push(await run(model));
    model.dispose();
  }
  return { stored: results[0]!, wide: results[1]! };
}

describe('a model whose weights stay as they are stored', () => {
  test('in f16 computes the same, bit for bit, in little more than half the memory', async () => {
    const { stored, wide } = await both(await converted(await smallUnet(), 'f16'));
    expect([...stored.out]).toEqual([...wide.out]);
    expect([...stored.gradient]).toEqual([...wide.gradient]);
    expect(stored.bytes).toBeLessThan(0.6 * wide.bytes);
  });

  test('in int8 computes what its widened weights do, in little more than a quarter', async () => {
    const { stored, wide } = await both(await converted(await smallUnet(), 'int8'));
    expectClose(stored.out, wide.out, 1e-5);
    expectClose(stored.gradient, wide.gradient, 1e-4);
    expect(stored.bytes).toBeLessThan(0.4 * wide.bytes);
    expect([...stored.out]).not.toEqual([...wide.out]); // else nothing was read as int8
  });

  test('int8 is near float32, and not equal to it', async () => {
    const file = await smallUnet();
    const original = await both(file);
    const { stored } = await both(await converted(file, 'int8'));
    const norm = (a: ArrayLike<number>) => Math.sqrt(Array.from(a).reduce((sum, v) => sum + v * v, 0));
    const off = norm(stored.out.map((v, i) => v - original.wide.out[i]!)) / norm(original.wide.out);
    expect(off).toBeLessThan(0.02);
    expect(off).toBeGreaterThan(1e-4);
    expect(original.stored).toEqual(original.wide);
  });
});

test('the shipped U-Net in int8 predicts nearly the same noise', async () => {
  const file = readFileSync(UNET_FILE);
  const predict = async (bytes: Uint8Array) => {
    const model = buildModel(runtime, readSafetensors(bytes));
    const { model_channels: width } = model.config.model;
    const { out } = await evaluate(runtime, model.weights, (e) => {
      const x = e.input('x', { n: 3, c: 1, h: 28, w: 28 }, values(3 * 28 * 28, 5, 1.7));
      const timesteps = e.input('t', { n: 3, c: width, h: 1, w: 1 }, timestepEmbedding([50, 500, 950], width));
      const labels = e.words('labels', Uint32Array.of(0, 5, 10));
      e.output('out', unet.forward(e, model.config.model as unet.UNetArguments, { x, timesteps, labels }));
    });
    model.dispose();
    return out!.filter((_, i) => Math.floor(i / 784) % 2 === 0); // eps, without the variance
  };
  const [exact, rounded] = [await predict(file), await predict(await converted(file, 'int8'))];
  const off = Math.hypot(...rounded.map((v, i) => v - exact[i]!)) / Math.hypot(...exact);
  expect(off).toBeLessThan(0.01);
  expect(off).toBeGreaterThan(1e-4);
});

describe('the text of a kernel', () => {
  test('only the binding and its reads change', () => {
    const text = readWeightsAs(convForward.source, 'f16');
    expect(text).toMatch(/var<storage, read> weights: array<vec4u>;/);
    expect(text).toContain('let w = weight_block(kernel[q] + tap + kx * IN_QUADS);');
    expect(text).toContain('fn weight_block(i: u32) -> mat4x4f');
    expect(readWeightsAs(convForward.source, 'f32')).toBe(convForward.source);
  });

  test('what cannot be rewritten is refused', () => {
    expect(() => readWeightsAs(attentionForward.source, 'f16')).toThrow('no matrix "weights"');
    const declared = '@group(0) @binding(0) var<storage, read> weights: array<mat4x4f>;\n';
    expect(() => readWeightsAs(`${declared} let p = &weights;`, 'int8')).toThrow('by index only');
    expect(readWeightsAs(`${declared} let a = weights[b[c[1]] + 2] * my.weights[3]; // weights`, 'int8')).toContain(
      'let a = weight_block(b[c[1]] + 2) * my.weights[3];',
    );
  });
});
