/** @file A classifier asked by itself says what it says inside a guided step. */
import { expect, test } from 'vitest';
import { ddim } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { classifierGuidance } from '../../src/diffusion/guidance.ts';
import { Judge } from '../../src/diffusion/judge.ts';
import { expectClose, testRuntime } from '../device.ts';
import { shippedModels } from '../models.ts';

const runtime = await testRuntime();
const { unet, classifier } = shippedModels(runtime);
const labels = [7, 2];

test('log-probabilities and gradient are those of a guided step at scale 1', async () => {
  const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 2 });
  const judge = await Judge.create(runtime, classifier, 2);
  let before: Float32Array | null = null;
  for await (const step of ddim(denoiser, { labels, respacing: 'ddim4', scale: 1, seed: 5 })) {
    if (before) {
      const found = await judge.judge(before, step.timestep, labels);
      expectClose(found.logProbs, (await step.logProbs())!);
      expectClose(found.gradient, (await step.gradient())!);
    }
    before = await step.sample();
  }
  expect(judge.runMs).toBeGreaterThan(0);
  judge.dispose();
  denoiser.dispose();
});

test('what does not fit is refused', async () => {
  const judge = await Judge.create(runtime, classifier, 2);
  const x = new Float32Array(2 * 784);
  await expect(judge.judge(x.subarray(1), 0, labels)).rejects.toThrow('should hold 1568 values, found 1567');
  await expect(judge.judge(x, 0, [7, 10])).rejects.toThrow('expected 2 labels from 0 to 9, found [7,10]');
  await expect(judge.judge(x, 0, [7])).rejects.toThrow('expected 2 labels');
  judge.dispose();
});
