/** @file A run as the page drives it: recorded, stopped, gone on with, and cheap to watch. */
import { expect, test } from 'vitest';
import { Run, type RunOptions, startNoise } from '../../demo/run.ts';
import { respacingOf, type SamplerName } from '../../demo/settings.ts';
import { imageBytes } from '../../src/diffusion/image.ts';
import {
  classifierFreeGuidance,
  classifierGuidance,
  createDiffusion,
  Denoiser,
  ddim,
  Judge,
  sample,
} from '../../src/index.ts';
import { testRuntime } from '../device.ts';
import { tinyModels } from '../models.ts';

const runtime = await testRuntime();
const { unet, classifier } = tinyModels(runtime);
const PICTURE = 64;
const labels = [6, 1];
const guidance = classifierGuidance(classifier);
const guided = new Denoiser(runtime, { unet, guidance, batch: 2 });

function optionsOf(sampler: SamplerName, steps: number, extra: Partial<RunOptions> = {}): RunOptions {
  const respacing = respacingOf(sampler, steps, 1000);
  return {
    denoiser: guided,
    process: createDiffusion(unet.config.diffusion!, respacing),
    respacing,
    sampler,
    labels,
    scale: 4,
    eta: 0,
    seed: 11,
    signal: new AbortController().signal,
    ...extra,
  };
}

test('what it ends with is what the library makes, and every step is recorded', async () => {
  const run = new Run(optionsOf('ddim', 5));
  expect(await run.advance()).toBe('done');
  const { samples } = await sample(runtime, { unet, guidance, labels, respacing: 'ddim5', scale: 4, seed: 11 });
  expect(run.history.last).toEqual(samples);
  expect(run.history.frames().length).toBe(5);
  expect(run.history.frameAt(5)!.x0).toEqual(imageBytes(samples));
  const series = run.history.logProbSeries(0);
  expect(series.every((v) => v <= 0)).toBe(true);
  expect(series.at(-1)!, 'guidance makes the class likelier').toBeGreaterThan(series[0]!);
  // The score is -eps / sqrt(1 - abar).
  const steps = ddim(guided, { labels, respacing: 'ddim5', scale: 4, seed: 11 });
  const { mean } = await (await steps.next()).value!.modelOutput();
  await steps.return();
  const abar = createDiffusion(unet.config.diffusion!, 'ddim5').alphas_cumprod[4]!;
  const norm = Math.hypot(...mean.subarray(0, PICTURE)) / Math.sqrt(1 - abar);
  expect(run.history.normSeries('score', 0)[0]! / norm).toBeCloseTo(1, 4);
});

test.each(['ddim', 'ddpm', 'dpm', 'heun'] as const)(
  '%s stops, goes on, and ends as an unbroken run',
  async (sampler) => {
    const unbroken = new Run(optionsOf(sampler, 4, { eta: 0.5 }));
    await unbroken.advance();
    let at = 0;
    const run: Run = new Run(
      optionsOf(sampler, 4, {
        eta: 0.5,
        onStep: (r) => {
          at = r.submitted;
          if (at === 2) r.stop();
        },
      }),
    );
    expect(await run.advance()).toBe('stopped');
    expect(at).toBe(2);
    expect(run.history.done, 'the step that was under way is kept').toBe(2);
    expect(await run.advance()).toBe('done');
    expect(run.history.last).toEqual(unbroken.history.last);
  },
);

test('six scales of one image have its noise: the one at the run’s scale is the run’s image', async () => {
  const main = new Run(optionsOf('ddpm', 4));
  await main.advance();
  const wide = new Denoiser(runtime, { unet, guidance, batch: 6 });
  const strip = new Run(
    optionsOf('ddpm', 4, {
      denoiser: wide,
      labels: Array<number>(6).fill(labels[1]!),
      scale: [0, 1, 2, 4, 8, 16],
      sameImage: 1,
    }),
  );
  await strip.advance();
  const whole = strip.history.last!;
  const [own, fourth] = [main.history.last!.subarray(PICTURE), whole.subarray(3 * PICTURE, 4 * PICTURE)];
  own.forEach((v, i) => {
    expect(Math.abs(v - fourth[i]!)).toBeLessThan(1e-4);
  });
  expect(whole.subarray(0, PICTURE)).not.toEqual(whole.subarray(5 * PICTURE));
  const noise = startNoise(11, { n: 3, c: 1, h: 8, w: 8 }, 1);
  expect(noise.subarray(0, PICTURE)).toEqual(startNoise(11, { n: 2, c: 1, h: 8, w: 8 }).subarray(PICTURE));
  wide.dispose();
});

test('without a classifier of its own a run is judged beside, and what was left out afterwards', async () => {
  const judge = Judge.create(runtime, classifier, 2);
  const free = new Denoiser(runtime, { unet, guidance: classifierFreeGuidance(), batch: 2 });
  const run = new Run(optionsOf('ddim', 6, { denoiser: free, judge }));
  await run.advance();
  expect(Number.isFinite(run.history.logProb(0, 0)), 'the first step is always judged').toBe(true);
  await run.judgeRest(new AbortController().signal);
  expect(run.history.logProbSeries(1).every(Number.isFinite)).toBe(true);
  expect(run.history.normSeries('gradient', 0).every((v) => v > 0)).toBe(true);
  free.dispose();
  (await judge).dispose();
});

// What that costs by the clock: test/slow/watching.test.ts.
test('watching a step takes five read-backs at most', async () => {
  const { queue } = runtime.device;
  const submit = queue.submit.bind(queue);
  const submits = async (record: boolean) => {
    let count = 0;
    queue.submit = (commands) => {
      count++;
      submit(commands);
    };
    try {
      await new Run(optionsOf('ddim', 4, { record })).advance();
    } finally {
      queue.submit = submit;
    }
    return count;
  };
  await submits(true);
  const [watched, plain] = [await submits(true), await submits(false)];
  expect(plain).toBeGreaterThanOrEqual(4);
  expect(watched).toBeGreaterThan(plain);
  expect(watched - plain).toBeLessThanOrEqual(5 * 4);
});
