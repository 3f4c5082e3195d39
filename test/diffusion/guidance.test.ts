import { describe, expect, test } from 'vitest';
import { ddim } from '../../src/diffusion/ddim.ts';
import { ddpm } from '../../src/diffusion/ddpm.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { modelTimestep } from '../../src/diffusion/gaussian_diffusion.ts';
import {
  adam,
  classifierFreeGuidance,
  classifierGuidance,
  momentum,
  noGuidance,
  scaleWithin,
} from '../../src/diffusion/guidance.ts';
import { gaussianNoise, STREAM } from '../../src/diffusion/noise.ts';
import { processOf, type SamplingOptions } from '../../src/diffusion/sampling.ts';
import type { Shape } from '../../src/runtime/resources.ts';
import { expectClose, testRuntime } from '../device.ts';
import { TINY, tinyModels } from '../models.ts';
import { classifierGradient, last, record, zip } from './run.ts';

const runtime = await testRuntime();
const { unet, classifier } = tinyModels(runtime);
const PICTURE = TINY.c * TINY.h * TINY.w;
const labels = [1, 9];
const shape: Shape = { n: 2, ...TINY };
const start = gaussianNoise({ seed: 21, firstImage: 0, step: 0, stream: STREAM.start }, shape);
const noise = (index: number) => gaussianNoise({ seed: 22, firstImage: 0, step: index, stream: STREAM.step }, shape);
const scale = [3, 5];
const options: SamplingOptions = { labels, respacing: '5', scale, start, noise };
const scaleOf = (i: number) => scale[Math.floor(i / PICTURE)]!;

const gradientAt = (x: Float32Array, timestep: number) =>
  classifierGradient(runtime, classifier, { x, shape, timestep, labels });

describe('the gradient at the predicted mean', () => {
  test('shifts the mean by variance * s * gradient(mean, t - 1)', async () => {
    const guidance = classifierGuidance(classifier, { at: 'mean' });
    const denoiser = new Denoiser(runtime, { unet, guidance, batch: 2 });
    const process = processOf(denoiser, options);
    let x: ArrayLike<number> = start;
    for (const [index, { t, predXstart, v, sample, gradient }] of (await record(ddpm(denoiser, options))).entries()) {
      const [a, b] = [process.posterior_mean_coef1[t]!, process.posterior_mean_coef2[t]!];
      const mean = zip((x0, xt) => a * x0 + b * xt, predXstart, x);
      const [low, high] = [process.posterior_log_variance_clipped[t]!, Math.log(process.betas[t]!)];
      const logVariance = zip((f) => ((f + 1) / 2) * high + (1 - (f + 1) / 2) * low, v!);
      const grad = await gradientAt(Float32Array.from(mean), modelTimestep(process, Math.max(0, t - 1)));
      const expectedGradient = Float64Array.from(grad, (g, i) => scaleOf(i) * g);
      expectClose(gradient!, expectedGradient, 2e-5);
      const expected = zip(
        (m, l, g, z) => m + Math.exp(l) * g + (t === 0 ? 0 : Math.exp(l / 2) * z),
        mean,
        logVariance,
        expectedGradient,
        noise(index),
      );
      expectClose(sample, expected, 1e-5);
      x = sample;
    }
    denoiser.dispose();
  });

  test('is not for samplers without a mean', async () => {
    const denoiser = new Denoiser(runtime, {
      unet,
      guidance: classifierGuidance(classifier, { at: 'mean' }),
      batch: 2,
    });
    await expect(last(ddim(denoiser, options))).rejects.toThrow('the gradient at the mean is for ddpm');
  });
});

describe('the simple form', () => {
  test.each(['ddpm', 'ddim'] as const)('%s adds s * gradient(x_{t-1}, t - 1) after the step', async (name) => {
    const sampler = { ddpm, ddim }[name];
    const simple = new Denoiser(runtime, {
      unet,
      guidance: classifierGuidance(classifier, { at: 'sample' }),
      batch: 2,
    });
    const plain = new Denoiser(runtime, { unet, guidance: noGuidance(), batch: 2 });
    const small = { ...options, scale: [0.02, 0.05] };
    const process = processOf(simple, options);
    const steps = await record(sampler(simple, small));
    // The unguided sampler, each step from the state that the guided one had.
    const before = (index: number) => (index === 0 ? start : steps[index - 1]!.sample);
    const unguided = await record(sampler(plain, { ...options, stateBefore: before }));
    for (const [index, { t, sample }] of steps.entries()) {
      const moved = unguided[index]!.sample;
      const grad = await gradientAt(moved, modelTimestep(process, Math.max(0, t - 1)));
      const expected = Float64Array.from(moved, (value, i) => value + small.scale[Math.floor(i / PICTURE)]! * grad[i]!);
      expectClose(sample, expected, 1e-5);
    }
    simple.dispose();
    plain.dispose();
  });
});

describe('a gradient through an optimiser’s filter', () => {
  /** The filters as their papers write them, in float64. */
  const references = {
    momentum: (beta: number) => {
      let m: Float64Array | null = null;
      return (g: Float32Array) => {
        m = zip((now, old) => beta * old + now, g, m ?? new Float64Array(g.length));
        return m;
      };
    },
    adam: (beta1: number, beta2: number, eps: number) => {
      let [m, v, k]: [ArrayLike<number> | null, ArrayLike<number> | null, number] = [null, null, 0];
      return (g: Float32Array) => {
        k++;
        m = zip((now, old) => beta1 * old + (1 - beta1) * now, g, m ?? new Float64Array(g.length));
        v = zip((now, old) => beta2 * old + (1 - beta2) * now * now, g, v ?? new Float64Array(g.length));
        const step = k;
        return zip((a, b) => a / (1 - beta1 ** step) / (Math.sqrt(b / (1 - beta2 ** step)) + eps), m, v);
      };
    },
  };

  test.each([
    ['momentum', momentum(0.8), references.momentum(0.8)],
    ['adam', adam({ beta1: 0.7, beta2: 0.95, eps: 1e-6 }), references.adam(0.7, 0.95, 1e-6)],
  ])('%s', async (_name, filter, reference) => {
    const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier, { filter }), batch: 2 });
    const mild = { ...options, scale: [0.5, 0.25] };
    const process = processOf(denoiser, mild);
    let x = start;
    for (const { t, gradient, sample } of await record(ddim(denoiser, mild))) {
      const filtered = reference(await gradientAt(x, modelTimestep(process, t)));
      expectClose(
        gradient!,
        Float64Array.from(filtered, (g, i) => mild.scale[Math.floor(i / PICTURE)]! * g),
        1e-4,
      );
      x = sample;
    }
    denoiser.dispose();
  });

  test('starts anew with each run', async () => {
    const denoiser = new Denoiser(runtime, {
      unet,
      guidance: classifierGuidance(classifier, { filter: momentum() }),
      batch: 2,
    });
    const first = await last(ddim(denoiser, options));
    expect(await last(ddim(denoiser, options))).toEqual(first);
    denoiser.dispose();
  });

  test('a beta of 1 never forgets, so it is refused', () => {
    expect(() => classifierGuidance(classifier, { filter: momentum(1) })).toThrow('beta should be from 0 to below 1');
  });
});

describe('the scale', () => {
  test('w of the paper is s = 1 + w', async () => {
    const runs = [];
    for (const [convention, value] of [
      ['s', 3],
      ['w', 2],
    ] as const) {
      const denoiser = new Denoiser(runtime, { unet, guidance: classifierFreeGuidance({ convention }), batch: 2 });
      runs.push(await last(ddim(denoiser, { ...options, scale: value })));
      denoiser.dispose();
    }
    expect(runs[0]).toEqual(runs[1]);
  });

  test('as a function of the step is that of each step', async () => {
    const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 2 });
    const seen: number[] = [];
    const steps = await record(
      ddim(denoiser, {
        ...options,
        scale: ({ index, count, timestep, sigma }) => {
          seen.push(timestep);
          expect(count).toBe(5);
          expect(sigma).toBeGreaterThan(0);
          return [index, 2 * index];
        },
      }),
    );
    expect(seen).toEqual(steps.map(({ timestep }) => timestep));
    for (const [index, { t, gradient }] of steps.entries()) {
      const before = index === 0 ? start : steps[index - 1]!.sample;
      const grad = await gradientAt(before, modelTimestep(processOf(denoiser, options), t));
      const expected = Float64Array.from(grad, (g, i) => index * (1 + Math.floor(i / PICTURE)) * g);
      if (index === 0) expect(gradient!.every((g) => g === 0)).toBe(true);
      else expectClose(gradient!, expected, 2e-5);
    }
    denoiser.dispose();
  });

  test('within an interval of timesteps is 0 outside', () => {
    const scaleAt = scaleWithin(4, 200, 700) as (place: { timestep: number }) => number;
    expect([100, 200, 500, 700, 701].map((timestep) => scaleAt({ timestep }))).toEqual([0, 4, 4, 4, 0]);
  });
});
