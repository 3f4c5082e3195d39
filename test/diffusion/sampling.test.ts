import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { readSafetensors, toNumbers } from '../../src/checkpoints/safetensors.ts';
import { ddim } from '../../src/diffusion/ddim.ts';
import { ddpm } from '../../src/diffusion/ddpm.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { classifierFreeGuidance, classifierGuidance, noGuidance } from '../../src/diffusion/guidance.ts';
import { gaussianNoise, STREAM } from '../../src/diffusion/noise.ts';
import { batchSize, sample } from '../../src/diffusion/sample.ts';
import { expectClose, testRuntime } from '../device.ts';
import { REFERENCE_FILE, shippedModels, tinyModels } from '../models.ts';
import { last } from './run.ts';

const runtime = await testRuntime();
const { unet, classifier } = tinyModels(runtime);
const reference = readSafetensors(readFileSync(REFERENCE_FILE)).tensors;
const recorded = (name: string) => Float32Array.from(toNumbers(reference.get(name)!));

describe('pictures of the original sampler from its own x_T', () => {
  // Two of the ten pictures: enough to see every layer, quick enough for each run of the tests.
  const chosen = [2, 7];
  const pick = (name: string) =>
    Float32Array.from(chosen.flatMap((i) => [...recorded(name).subarray(i * 784, (i + 1) * 784)]));
  const { unet, classifier } = shippedModels(runtime);
  const options = { labels: chosen, respacing: 'ddim25', start: pick('x_T') };

  test.each([
    ['classifier_null_scale4', classifierGuidance(classifier), 4],
    ['classifier_free_scale2', classifierFreeGuidance(), 2],
    ['conditional', noGuidance({ conditional: true }), 1],
  ] as const)('%s', async (name, guidance, scale) => {
    const denoiser = new Denoiser(runtime, { unet, guidance, batch: chosen.length });
    expectClose(await last(ddim(denoiser, { ...options, scale })), pick(name), 2e-5);
    denoiser.dispose();
  });
});

describe('a run', () => {
  const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 1 });
  const short = { labels: [5], respacing: 'ddim5', scale: 3, seed: 11 };

  test('repeats bit for bit, and a seed, class, scale or eta changes it', async () => {
    const first = await last(ddim(denoiser, short));
    expect(await last(ddim(denoiser, short))).toEqual(first);
    for (const change of [{ seed: 12 }, { labels: [6] }, { scale: 2 }, { eta: 1 }]) {
      expect(await last(ddim(denoiser, { ...short, ...change }))).not.toEqual(first);
    }
  });

  test('starts from the noise of its seed, and takes the caller’s noise as it is', async () => {
    const shape = denoiser.shape;
    const start = gaussianNoise({ seed: 11, firstImage: 0, step: 0, stream: STREAM.start }, shape);
    expect(await last(ddim(denoiser, { ...short, start }))).toEqual(await last(ddim(denoiser, short)));
    const noise = (index: number) =>
      gaussianNoise({ seed: 11, firstImage: 0, step: 4 - index, stream: STREAM.step }, shape);
    expect(await last(ddim(denoiser, { ...short, eta: 0.7, noise }))).toEqual(
      await last(ddim(denoiser, { ...short, eta: 0.7 })),
    );
  });

  test('at scale 0 is the unguided run', async () => {
    const free = new Denoiser(runtime, { unet, guidance: noGuidance(), batch: 1 });
    const unguided = await last(ddim(free, { respacing: 'ddim5', seed: 11 }));
    expectClose(await last(ddim(denoiser, { ...short, scale: 0 })), unguided, 1e-6);
    expectClose(await last(ddim(denoiser, { ...short, labels: [null] })), unguided, 1e-6);
    free.dispose();
  });

  test('tells where it is, and what the classifier thinks', async () => {
    const seen: number[][] = [];
    for await (const step of ddim(denoiser, { ...short, respacing: 'ddim10', scale: 4 })) {
      seen.push([step.index, step.count, step.t, step.timestep]);
      const logProbs = (await step.logProbs())!;
      expect(logProbs.reduce((sum, value) => sum + Math.exp(value), 0)).toBeCloseTo(1, 5);
      expect((await step.gradient())!.some((value) => value !== 0)).toBe(true);
      expect((await step.predXstart()).every(Number.isFinite)).toBe(true);
    }
    expect(seen[0]).toEqual([0, 10, 9, 900]);
    expect(seen[9]).toEqual([9, 10, 0, 0]);
  });

  test('stops at a signal', async () => {
    const controller = new AbortController();
    let steps = 0;
    const run = async () => {
      for await (const _ of ddim(denoiser, { ...short, signal: controller.signal }))
        if (++steps === 2) controller.abort(new Error('enough'));
    };
    await expect(run()).rejects.toThrow('enough');
    expect(steps).toBe(2);
  });
});

describe('ddpm', () => {
  test('differs with the seed, and its noise-free last step keeps pictures in range', async () => {
    const denoiser = new Denoiser(runtime, { unet, guidance: noGuidance({ conditional: true }), batch: 1 });
    const a = await last(ddpm(denoiser, { labels: [8], respacing: '8', seed: 1 }));
    const b = await last(ddpm(denoiser, { labels: [8], respacing: '8', seed: 2 }));
    expect(a).not.toEqual(b);
    expect(Math.max(...a.map(Math.abs))).toBeLessThan(1.1);
    denoiser.dispose();
  });
});

describe('sample', () => {
  test('batches of any size give the same pictures', async () => {
    const options = {
      unet,
      guidance: classifierFreeGuidance(),
      labels: [0, 1, null],
      respacing: 'ddim2',
      scale: 2,
      seed: 5,
    };
    const one = await sample(runtime, { ...options, maxBatch: 3 });
    const many = await sample(runtime, { ...options, maxBatch: 2 });
    expect([one.batches, many.batches]).toEqual([1, 2]);
    expect(one.shape).toEqual([3, 1, 8, 8]);
    // Other batches may take other kernels, so sums are rounded otherwise: the least tolerance of recorded trajectories.
    expectClose(many.samples, one.samples, 1e-5);
  });

  test.each([
    [10, 16, 10],
    [100, 16, 10],
    [64, 16, 16],
    [7, 4, 4],
    [1, 16, 1],
    [33, 16, 11],
    [31, 16, 16],
  ])('%i pictures, at most %i at once: batches of %i', (count, most, size) => {
    expect(batchSize(count, most)).toBe(size);
    expect(Math.ceil(count / size) * size - count).toBeLessThan(size);
  });
});

describe('what does not go together is refused', () => {
  test.each([
    [{ labels: [10] }, 'a label should be from 0 to 9, found 10'],
    [{ labels: [1, 2] }, 'expected 1 labels, found 2'],
    [{ labels: [1], scale: Number.NaN }, 'scale should be a number'],
    [{ labels: [1], scale: [1, 2] }, 'scale should be a number'],
    [{ labels: [1], eta: -1 }, 'eta should be'],
    [{ labels: [1], respacing: 'ddim999' }, 'no whole stride'],
    [{ labels: [1], seed: 0.5 }, 'a seed is an integer'],
    [{ labels: [1], start: new Float32Array(3) }, 'expected 64 values'],
  ])('%j', async (options, message) => {
    const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 1 });
    await expect((async () => last(ddim(denoiser, { respacing: 'ddim2', ...options })))()).rejects.toThrow(message);
    denoiser.dispose();
  });

  test('another size than the classifier takes', () => {
    const guidance = classifierGuidance(classifier);
    expect(() => new Denoiser(runtime, { unet, guidance, batch: 1, height: 32, width: 32 })).toThrow('of 8 x 8');
    expect(() => new Denoiser(runtime, { unet, guidance, batch: 0 })).toThrow('batch should be at least 1');
  });
});
