import { describe, expect, test } from 'vitest';
import { ddim, ddimCoefficients, ddimReverse } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { dpmSolver, dpmSolverCoefficients } from '../../src/diffusion/dpm_solver.ts';
import { createDiffusion, type GaussianDiffusion } from '../../src/diffusion/gaussian_diffusion.ts';
import { classifierGuidance, noGuidance } from '../../src/diffusion/guidance.ts';
import { heun, heunCoefficients } from '../../src/diffusion/heun.ts';
import { gaussianNoise, STREAM } from '../../src/diffusion/noise.ts';
import { processOf, type SamplingOptions } from '../../src/diffusion/sampling.ts';
import { expectClose, testRuntime } from '../device.ts';
import { shippedModels, tinyModels } from '../models.ts';
import { last, record, sigmaAt, zip } from './run.ts';

const runtime = await testRuntime();
const { unet, classifier } = tinyModels(runtime);

const guided = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 1 });
const conditional = new Denoiser(runtime, { unet, guidance: noGuidance({ conditional: true }), batch: 1 });
const start = gaussianNoise({ seed: 3, firstImage: 0, step: 0, stream: STREAM.start }, guided.shape);
const options: SamplingOptions = { labels: [8], respacing: 'ddim5', scale: 4, start, clipDenoised: true };

/** x of the variance-preserving form as that of the variance-exploding one, and back. */
const exploding = (x: ArrayLike<number>, sigma: number) => zip((value) => value * Math.hypot(1, sigma), x);
const preserving = (x: ArrayLike<number>, sigma: number) => zip((value) => value / Math.hypot(1, sigma), x);

/**
 * Both references are written in the variance-exploding form, x = x_0 + sigma * eps with time -log(sigma), as
 * Karras et al. 2022 and Lu et al. 2022 state them; the samplers work in the model's own variance-preserving form. They
 * take the predictions of x_0 from the run and make the states from them.
 */
describe('DPM-Solver++(2M)', () => {
  test('makes the states of the multistep formula from its predictions', async () => {
    const process = processOf(guided, options);
    const steps = await record(dpmSolver(guided, options));
    let x = exploding(start, sigmaAt(process, process.length - 1));
    let before: { denoised: ArrayLike<number>; time: number } | null = null;
    for (const { t, predXstart, sample } of steps) {
      const [sigma, sigmaNext] = [sigmaAt(process, t), sigmaAt(process, t - 1)];
      const [time, timeNext] = [-Math.log(sigma), -Math.log(sigmaNext)];
      const h = timeNext - time;
      let direction: ArrayLike<number> = predXstart;
      if (before && sigmaNext > 0) {
        const r = (time - before.time) / h;
        direction = zip((now, old) => (1 + 1 / (2 * r)) * now - (1 / (2 * r)) * old, predXstart, before.denoised);
      }
      x = zip((value, d) => (sigmaNext / sigma) * value - Math.expm1(-h) * d, x, direction);
      expectClose(sample, preserving(x, sigmaNext), 1e-5);
      before = { denoised: predXstart, time };
    }
  });
});

describe('Heun', () => {
  test('makes the states of the two-stage formula from its predictions', async () => {
    const process = processOf(conditional, options);
    const predictions: Float32Array[] = [];
    const denoisedFn = (prediction: Float32Array) => {
      predictions.push(prediction.slice());
      return prediction;
    };
    const steps = await record(heun(conditional, { ...options, denoisedFn }));
    expect(predictions.length).toBe(2 * steps.length - 1);
    let x = exploding(start, sigmaAt(process, process.length - 1));
    for (const { t, sample } of steps) {
      const [sigma, sigmaNext] = [sigmaAt(process, t), sigmaAt(process, t - 1)];
      const slope = zip((value, d) => (value - d) / sigma, x, predictions.shift()!);
      const euler = zip((value, d) => value + d * (sigmaNext - sigma), x, slope);
      if (sigmaNext === 0) x = euler;
      else {
        const slopeNext = zip((value, d) => (value - d) / sigmaNext, euler, predictions.shift()!);
        x = zip((value, a, b) => value + ((a + b) / 2) * (sigmaNext - sigma), x, slope, slopeNext);
      }
      expectClose(sample, preserving(x, sigmaNext), 1e-5);
    }
  });

  test('evaluates the guided score at both points', async () => {
    const process = processOf(guided, options);
    const all = await record(heun(guided, options));
    // With the same predictions at the same points, one Euler step to x_0 is what DDIM does.
    const lastStep = all.at(-1)!;
    const before = all.at(-2)!;
    const ddimStep = await record(ddim(guided, { ...options, stateBefore: () => before.sample }));
    expectClose(lastStep.sample, ddimStep.at(-1)!.sample, 1e-5);
    expect(process.length).toBe(all.length);
  });
});

/**
 * For pictures that are N(0, c^2) everything is known: the prediction of x_0 is x * c^2 / (c^2 + sigma^2) in the
 * variance-exploding form, and the ODE's solution goes as sqrt(c^2 + sigma^2).
 */
describe('the order of a method', () => {
  const c = 0.5;
  const args = {
    steps: 4000,
    noise_schedule: 'linear',
    var_type: 'fixed_small',
    mean_type: 'epsilon',
    rescale_timesteps: false,
  } as const;
  type Uniform = Readonly<Record<string, number>>;

  /** shaders/diffusion/linear_step.wgsl for one number. */
  class Walk {
    #saved = { x: 0, start: 0 };
    x: number;
    constructor(x: number) {
      this.x = x;
    }
    step(sigma: number, u: Uniform): void {
      const start = (this.x * Math.hypot(1, sigma) * c * c) / (c * c + sigma * sigma);
      const moved =
        u['x_factor']! * this.x +
        u['start_factor']! * start +
        (u['saved_x_factor'] ?? 0) * this.#saved.x +
        (u['saved_start_factor'] ?? 0) * this.#saved.start;
      if (u['store']) this.#saved = { x: this.x, start };
      this.x = moved;
    }
  }

  /** Relative error at the second smallest timestep, after the given number of steps. */
  function error(count: number, advance: (walk: Walk, p: GaussianDiffusion, t: number, first: boolean) => void) {
    const process = createDiffusion(args, `ddim${count}`);
    const last = process.length - 1;
    const walk = new Walk(1);
    for (let t = last; t > 0; t--) advance(walk, process, t, t === last);
    const variance = (t: number) => (c * c + sigmaAt(process, t) ** 2) / (1 + sigmaAt(process, t) ** 2);
    const exact = Math.sqrt(variance(0) / variance(last));
    return Math.abs(walk.x / exact - 1);
  }

  const methods = {
    ddim: (walk: Walk, p: GaussianDiffusion, t: number) => walk.step(sigmaAt(p, t), ddimCoefficients(p, t, 0)),
    dpm: (walk: Walk, p: GaussianDiffusion, t: number, first: boolean) =>
      walk.step(sigmaAt(p, t), dpmSolverCoefficients(p, t, first)),
    heun: (walk: Walk, p: GaussianDiffusion, t: number) => {
      const { predictor, corrector } = heunCoefficients(p, t);
      walk.step(sigmaAt(p, t), predictor);
      walk.step(sigmaAt(p, t - 1), corrector!);
    },
  };

  test.each([
    ['ddim', 1],
    ['dpm', 2],
    ['heun', 2],
  ] as const)('%s is of order %i', (name, order) => {
    const errors = [100, 200, 400].map((count) => error(count, methods[name]));
    const measured = errors.slice(1).map((e, i) => Math.log2(errors[i]! / e));
    expect(measured.at(-1)!).toBeGreaterThan(order - 0.3);
    expect(measured.at(-1)!).toBeLessThan(order + 0.5);
  });
});

describe('DDIM inversion', () => {
  test('leads back to the picture, the closer the finer', async () => {
    // Random weights have no smooth way back; trained ones do.
    const trained = shippedModels(runtime).unet;
    const conditional = new Denoiser(runtime, { unet: trained, guidance: noGuidance({ conditional: true }), batch: 1 });
    const picture = await last(ddim(conditional, { labels: [8], respacing: 'ddim8', seed: 3 }));
    const backAndForth = async (respacing: string) => {
      const common = { labels: [8], respacing };
      const xT = await last(ddimReverse(conditional, { ...common, start: picture }));
      const again = await last(ddim(conditional, { ...common, start: xT }));
      return Math.hypot(...zip((a, b) => a - b, again, picture)) / Math.hypot(...picture);
    };
    const coarse = await backAndForth('ddim5');
    const fine = await backAndForth('ddim20');
    expect(fine).toBeLessThan(coarse);
    expect(fine).toBeLessThan(0.15);
  });
});
