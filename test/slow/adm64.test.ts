/**
 * @file The released 64 x 64 class-conditional model and its classifier at full size, with random weights: one guided
 * step. Takes some 5 GB of memory, and minutes on a software adapter, so it is run by `npm run test:slow` alone.
 */
import { expect, test } from 'vitest';
import { modelParameters } from '../../src/checkpoints/config.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { buildModel } from '../../src/checkpoints/model.ts';
import type { CheckpointTensor } from '../../src/checkpoints/safetensors.ts';
import { ddim } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { classifierGuidance } from '../../src/diffusion/guidance.ts';
import { shapedModel, summarizeStep } from '../../src/inspect/summary.ts';
import { random, testRuntime } from '../device.ts';

const FLAGS = `--image_size 64 --attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1
  --learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3
  --resblock_updown True --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True
  --classifier_depth 4`;

/** The bits of a few thousand half-precision numbers between -1 and 1. */
function halves(seed: number): Uint16Array {
  const next = random(seed);
  return Uint16Array.from({ length: 4096 }, () => {
    const value = next();
    const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(value))));
    const mantissa = Math.min(1023, Math.round((Math.abs(value) / 2 ** exponent - 1) * 1024));
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | Math.max(0, mantissa);
  });
}

/** Random weights of a size that keeps activations near 1; f16, as released models are often stored. */
function randomTensors(parameters: ReturnType<typeof modelParameters>): Map<string, CheckpointTensor> {
  const table = halves(1);
  const next = random(2);
  const tensors = new Map<string, CheckpointTensor>();
  for (const { name, shape } of parameters) {
    const count = shape.reduce((a, b) => a * b, 1);
    const fanIn = count / shape[0]!;
    // Dividing by a power of two only lowers the exponent.
    const lower = shape.length === 1 ? 3 : Math.round(Math.log2(Math.sqrt(fanIn / 3)));
    const bits = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      const half = table[((next() + 1) * 2048) & 4095]!;
      const exponent = ((half >> 10) & 31) - lower;
      bits[i] = exponent > 0 ? (half & 0x83ff) | (exponent << 10) : 0;
    }
    tensors.set(name, { dtype: 'F16', shape, bytes: new Uint8Array(bits.buffer) });
  }
  return tensors;
}

test('one guided step of the 64 x 64 model', { timeout: 3_600_000 }, async () => {
  const runtime = await testRuntime();
  const flags = parseFlags(FLAGS);
  const [unetConfig, classifierConfig] = [flags.config('unet'), flags.config('classifier')];
  const model = (config: typeof unetConfig | typeof classifierConfig) =>
    buildModel(runtime, { tensors: randomTensors(modelParameters(config)), metadata: new Map() }, config);
  const [unet, classifier] = [model(unetConfig), model(classifierConfig)];
  if (!unet.isUNet() || !classifier.isClassifier()) throw new Error('expected a U-Net and a classifier');

  const guidance = classifierGuidance(classifier, { conditional: true });
  const denoiser = new Denoiser(runtime, { unet, guidance, batch: 1 });
  const started = performance.now();
  const run = ddim(denoiser, { labels: [207], respacing: 'ddim250', scale: 1, seed: 1 });
  const { value: step } = await run.next();
  if (!step) throw new Error('expected a step');
  const sample = await step.sample();
  const seconds = (performance.now() - started) / 1000;
  const gradient = (await step.gradient())!;
  const logProbs = (await step.logProbs())!;
  await run.return();

  const finite = (values: Float32Array) => values.every(Number.isFinite);
  expect([sample.length, gradient.length, logProbs.length]).toEqual([12288, 12288, 1000]);
  expect([finite(sample), finite(gradient), finite(logProbs)]).toEqual([true, true, true]);
  expect(gradient.filter((value) => value !== 0).length).toBeGreaterThan(12000);
  expect(logProbs.reduce((sum, value) => sum + Math.exp(value), 0)).toBeCloseTo(1, 3);
  // The state stays as large as noise is: the predicted x_0 of an untrained model adds little to it.
  const size = Math.hypot(...sample) / Math.sqrt(sample.length);
  expect(size).toBeGreaterThan(0.5);
  expect(size).toBeLessThan(2);

  const planned = summarizeStep(shapedModel(unetConfig), shapedModel(classifierConfig), { target: runtime.target });
  expect(unet.weights.bytes + classifier.weights.bytes).toBeGreaterThanOrEqual(planned.weightBytes);
  expect(unet.weights.bytes + classifier.weights.bytes).toBeLessThan(planned.weightBytes * 1.001);
  process.stderr.write(
    `one guided step in ${seconds.toFixed(0)} s, planning, compiling and packing included; peak ${(runtime.buffers.peakBytes / 1e9).toFixed(2)} GB\n`,
  );
});
