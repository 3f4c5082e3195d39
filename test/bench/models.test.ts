/** @file Models as the benchmark runs them give what samplers and networks give; what is wrong is not timed. */
import { afterAll, expect, test } from 'vitest';
import { benchModel, MODEL_CASES } from '../../bench/models.ts';
import { randomModel } from '../../bench/random_model.ts';
import { relativeDifference } from '../../bench/reference.ts';
import { layerTotals, type ModelResult } from '../../bench/results.ts';
import { Collected, MODELS_FAMILY, runBench } from '../../bench/run.ts';
import { expectedStep, RESULT_NAMES, someInputs } from '../../bench/step_inputs.ts';
import { modelLines, wrongLine } from '../../bench/tables.ts';
import { readSafetensors, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { ddim } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { modelTimestep } from '../../src/diffusion/gaussian_diffusion.ts';
import { classifierGuidance } from '../../src/diffusion/guidance.ts';
import { Clock } from '../../src/runtime/measure.ts';
import { expectClose, testRuntime } from '../device.ts';
import { TINY_CONFIGS } from '../models.ts';

const runtime = await testRuntime();
const clock = new Clock(runtime.device);
const [unetConfig, classifierConfig] = TINY_CONFIGS;
// Without a null class the U-Net is told the class, as a released one is.
const unet = randomModel(runtime, { ...unetConfig, nullClass: null });
const classifier = randomModel(runtime, classifierConfig);
if (!unet.isUNet() || !classifier.isClassifier()) throw new Error('expected a U-Net and a classifier');
const pair = { unet, classifier };
const batch = 2;
const peak = { flops: 1e10, bandwidth: 1e9, launchMs: 0.01, copyBytes: 2 ** 20 };
const quick = { batchMs: 1, rounds: 2 };
afterAll(() => clock.dispose());

const inputs = { ...someInputs(unet, 10, batch), scale: 3 };
const { process, t } = inputs;

/** The results of a step as a sampler tells them. */
async function sampled() {
  const denoiser = new Denoiser(runtime, {
    unet: pair.unet,
    guidance: classifierGuidance(pair.classifier, { conditional: true }),
    batch,
  });
  const { x: start, labels, scale } = inputs;
  const pictures = new Float32Array(start.length);
  // All later timesteps are left out: the run begins at t.
  const image = { pictures, strength: (t + 1) / process.length };
  for await (const step of ddim(denoiser, { labels, scale, image, stateBefore: () => start })) {
    expect(step.timestep).toBe(modelTimestep(process, t));
    const { mean, v } = await step.modelOutput();
    const size = mean.length / batch;
    const output = Float32Array.from({ length: 2 * mean.length }, (_, i) => {
      const place = i % (2 * size);
      const image = Math.floor(i / (2 * size)) * size;
      return place < size ? mean[image + place]! : v![image + place - size]!;
    });
    const gradient = (await step.gradient())!.map((value) => value / scale);
    return { output, gradient, sample: await step.sample() };
  }
  throw new Error('no step was taken');
}

const results = await sampled();
const expected = { inputs, results };

test('every case makes what a sampler makes of the same inputs', async () => {
  for (const model of MODEL_CASES) {
    const planned = await model.plan(runtime, pair, batch);
    const found = await planned.result(inputs);
    if (model.makes) expectClose(found, results[model.makes], 1e-5);
    expect(planned.weightBytes).toBeGreaterThan(1e5);
    planned.dispose();
  }
  expect(MODEL_CASES.flatMap(({ makes }) => makes ?? []).sort()).toEqual([...RESULT_NAMES].sort());
});

test('models of one’s own are checked and timed; of layers, the step’s alone are', async () => {
  const collected = new Collected();
  const selection = { family: MODELS_FAMILY, models: null };
  for await (const event of runBench(runtime, pair, { selection, batch, own: true, expected, ...quick })) {
    collected.take(event);
  }
  const { models, wrong } = collected;
  expect(wrong).toEqual([]);
  expect(models.map(({ error }) => error !== undefined)).toEqual([true, false, true, true]);
  expect(models.map(({ layers }) => layers.length > 0)).toEqual([false, false, false, true]);
  const { layers } = models[3]!;
  const { kinds, heaviest } = layerTotals(layers, 5);
  const total = layers.reduce((sum, { ms }) => sum + ms, 0);
  expect(Object.values(kinds).reduce((a, b) => a + b, 0)).toBeCloseTo(total, 6);
  expect(Math.min(kinds.conv, kinds.norm, kinds.attn, kinds.lin)).toBeGreaterThan(0);
  expect(heaviest.length).toBe(5);
  expect(heaviest.map(({ ms }) => ms)).toEqual(heaviest.map(({ ms }) => ms).sort((a, b) => b - a));
  expect(heaviest.some(({ layers: count }) => count > 1)).toBe(true);
  expect(modelLines(models[3]!).join('\n')).toMatch(/error [\d.e+-]+\n.*layers alone.*\n.*\d × .*FLOP\/s/);
});

test('a model with a wrong result is not timed', async () => {
  const sample = results.sample.map((value) => value * 1.001);
  const step = MODEL_CASES.find(({ makes }) => makes === 'sample')!;
  const wrongly = { inputs, results: { ...results, sample } };
  const found = await benchModel(runtime, clock, peak, step, pair, batch, { expected: wrongly, layers: 'none' });
  if (!('wrong' in found)) throw new Error('expected it to be wrong');
  expect(found.error).toBeCloseTo(1e-3, 5);
  expect(wrongLine(found)).toMatch(/error 1\.0e-3, relative error above 0\.0001/);
});

test('layers of the same work are summed, others are listed by themselves', () => {
  const layer = (name: string, ms: number, work: string): ModelResult['layers'][number] => {
    return { name, kind: 'conv', ms, dispatches: 2, work, flops: 10 };
  };
  const { kinds, heaviest } = layerTotals([layer('a', 1, 'x'), layer('b', 5, 'y'), layer('c', 2, 'x')]);
  expect(kinds).toEqual({ conv: 8, norm: 0, attn: 0, lin: 0, other: 0 });
  expect(heaviest.map(({ name, ms, layers, flops, dispatches }) => [name, ms, layers, flops, dispatches])).toEqual([
    ['b', 5, 1, 10, 2],
    ['a', 3, 2, 20, 4],
  ]);
});

test('a file says what is expected of which step', () => {
  const { image_size: size, in_channels: c, out_channels: out } = pair.unet.config.model;
  const tensor = (shape: number[], data: Float32Array) => ({ dtype: 'F32' as const, shape, data });
  const bytes = (step: object, change: object = {}) => {
    const told = new Float32Array(batch).fill(modelTimestep(process, t));
    const tensors = {
      x_t: tensor([batch, c, size, size], inputs.x),
      timesteps: tensor([batch], told),
      labels: tensor([batch], Float32Array.from(inputs.labels)),
      output: tensor([batch, out, size, size], results.output),
      gradient: tensor([batch, c, size, size], results.gradient),
      sample: tensor([batch, c, size, size], results.sample),
      ...change,
    };
    return readSafetensors(writeSafetensors(tensors, { step: JSON.stringify(step) }));
  };
  const found = expectedStep(bytes({ respacing: '', t, scale: 3 }), pair.unet);
  expect(found).toEqual(expected);
  expect(() => expectedStep(bytes({ respacing: '', t: t - 1, scale: 3 }), pair.unet)).toThrow(
    `told the timestep ${t - 1}, found ${t}`,
  );
  expect(() => expectedStep(bytes({ respacing: 'ddim25', t: 25, scale: 3 }), pair.unet)).toThrow('from 0 to 24');
  expect(() => expectedStep(bytes({ t, scale: 3 }), pair.unet)).toThrow('expected a JSON string "step"');
  const short = { sample: tensor([batch, c, size], results.sample.subarray(0, batch * c * size)) };
  expect(() => expectedStep(bytes({ respacing: '', t, scale: 3 }, short), pair.unet)).toThrow(
    'sample should have shape',
  );
  expect(relativeDifference([1, 2], [1])).toBeNaN();
});
