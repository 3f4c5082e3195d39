/**
 * @file Heun's method on the probability-flow ODE: second order with two evaluations a step (Karras et al. 2022, algorithm
 * 1 without churn, in the variance-preserving parameters of the model).
 */
import { linearPart, moveTo } from './ddim.ts';
import type { Denoiser } from './denoiser.ts';
import type { GaussianDiffusion } from './gaussian_diffusion.ts';
import { descending, processOf, runSampler, type Sampler, type SamplingOptions, type SamplingRun } from './sampling.ts';

/**
 * Samples with Heun's method, one state a step. Guidance is that of DDIM, at each of the two evaluations.
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export function heun(denoiser: Denoiser, options: SamplingOptions = {}): SamplingRun {
  return runSampler(denoiser, heunSampler, processOf(denoiser, options), options);
}

const heunSampler: Sampler = {
  part: linearPart('none', true),
  steps: (process) =>
    descending(process).map(({ t, next }) => {
      const { predictor, corrector } = heunCoefficients(process, t);
      const first = { t, next, coefficients: { step: predictor } };
      // The last step leads to x_0, where there is no noise left to evaluate at: it is Euler's alone.
      if (!corrector) return { t, evaluations: [first] };
      return { t, evaluations: [first, { t: next, next, coefficients: { step: corrector } }] };
    }),
};

/**
 * The uniforms of shaders/diffusion/linear_step.wgsl for the two halves of a step. With y = x / sqrt(abar) and
 * s = sqrt((1 - abar) / abar) the ODE is dy / ds = eps:
 *
 *   predictor  y' = y + (s' - s) * eps(y, s)                                    a step of DDIM; x and x_0 are saved
 *   corrector  y'' = y + (s' - s) / 2 * (eps(y, s) + eps(y', s'))
 */
export function heunCoefficients(process: GaussianDiffusion, t: number) {
  const abarNew = process.alphas_cumprod_prev[t]!;
  const predictor = { ...moveTo(process, t, abarNew, 0), saved_x_factor: 0, saved_start_factor: 0, store: 1 };
  if (t === 0) return { predictor, corrector: null };
  const [s, sNew] = [process.sqrt_recipm1_alphas_cumprod[t]!, process.sqrt_recipm1_alphas_cumprod[t - 1]!];
  const [root, rootNew] = [process.sqrt_alphas_cumprod[t]!, process.sqrt_alphas_cumprod[t - 1]!];
  const half = (rootNew * (sNew - s)) / 2;
  // eps = (x / sqrt(abar) - x_0) / s at each of the two points.
  const corrector = {
    x_factor: half / (rootNew * sNew),
    start_factor: -half / sNew,
    noise_factor: 0,
    saved_x_factor: rootNew / root + half / (root * s),
    saved_start_factor: -half / s,
    store: 0,
  };
  return { predictor, corrector };
}
