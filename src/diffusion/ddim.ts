/**
 * @file DDIM: the deterministic sampler, with eta the family between it and DDPM, and its reversal (Song et al. 2020).
 */
import { OptionError } from '../runtime/errors.ts';
import type { Denoiser } from './denoiser.ts';
import type { GaussianDiffusion } from './gaussian_diffusion.ts';
import { descending, processOf, runSampler, type Sampler, type SamplingOptions, type SamplingRun } from './sampling.ts';
import { linearUpdate } from './step_operations.ts';

export interface DdimOptions extends SamplingOptions {
  /** 0, the default, is deterministic; 1 has the noise of DDPM. */
  readonly eta?: number;
}

/**
 * Samples with DDIM, one state a step.
 *
 *   for await (const step of ddim(denoiser, { labels, respacing: 'ddim25', scale: 4 })) show(await step.predXstart());
 *
 * Classifier guidance acts on the score: eps - sqrt(1 - abar_t) * s * grad log p(y | x_t) (Dhariwal & Nichol 2021,
 * algorithm 2).
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export function ddim(denoiser: Denoiser, options: DdimOptions = {}): SamplingRun {
  const { eta = 0 } = options;
  if (!(eta >= 0 && Number.isFinite(eta))) throw new OptionError(`eta should be a number from 0 on, found ${eta}`);
  return runSampler(denoiser, ddimSampler(eta, options), processOf(denoiser, options), options);
}

/**
 * Runs DDIM backwards: from pictures (the `start`) to the x_T that DDIM makes them from, one state a step. The finer the
 * respacing, the closer the pictures that `ddim` makes of it (Dhariwal & Nichol 2021, appendix F).
 */
export function ddimReverse(
  denoiser: Denoiser,
  options: SamplingOptions & { readonly start: Float32Array },
): SamplingRun {
  return runSampler(denoiser, reverseSampler, processOf(denoiser, options), options);
}

/** The part of a sampler that is linear in what it knows; with `history`, also in what the step before saved. */
export const linearPart = (noise: Sampler['part']['noise'], history = false): Sampler['part'] => ({
  key: history ? 'linear with history' : 'linear',
  noise,
  guides: 'score',
  append: (graph, { x, start, noise: drawn }) => ({ step: linearUpdate(graph, x, start, drawn, history) }),
});

const ddimSampler = (eta: number, { noise }: SamplingOptions): Sampler => ({
  part: linearPart(eta === 0 ? 'none' : noise ? 'given' : 'counter'),
  steps: (process) =>
    descending(process).map(({ t, next }) => ({
      t,
      evaluations: [{ t, next, coefficients: { step: ddimCoefficients(process, t, eta) } }],
    })),
});

const reverseSampler: Sampler = {
  part: linearPart('none'),
  steps: (process) =>
    Array.from({ length: process.length }, (_, t) => ({
      t,
      evaluations: [{ t, next: t + 1, coefficients: { step: moveTo(process, t, process.alphas_cumprod_next[t]!, 0) } }],
    })),
};

/**
 * The uniform of shaders/diffusion/linear_step.wgsl at timestep `t`.
 *
 *   x' = sqrt(abar') * x_0 + sqrt(1 - abar' - sigma^2) * eps + sigma * z
 *   sigma = eta * sqrt((1 - abar') / (1 - abar)) * sqrt(1 - abar / abar')                        (equations 12 and 16)
 */
export function ddimCoefficients(process: GaussianDiffusion, t: number, eta: number) {
  const abar = process.alphas_cumprod[t]!;
  const abarPrev = process.alphas_cumprod_prev[t]!;
  const sigma = eta * Math.sqrt((1 - abarPrev) / (1 - abar)) * Math.sqrt(1 - abar / abarPrev);
  return { ...moveTo(process, t, abarPrev, sigma), noise_factor: t === 0 ? 0 : sigma };
}

/** From x_t to another level: eps = (sqrt(1 / abar) * x_t - x_0) / sqrt(1 / abar - 1), put into the formula above. */
export function moveTo(process: GaussianDiffusion, t: number, abarNew: number, sigma: number) {
  // Rounding may leave a tiny negative number where sigma takes all of the variance.
  const eps = Math.sqrt(Math.max(0, 1 - abarNew - sigma ** 2)) / process.sqrt_recipm1_alphas_cumprod[t]!;
  return {
    x_factor: eps * process.sqrt_recip_alphas_cumprod[t]!,
    start_factor: Math.sqrt(abarNew) - eps,
    noise_factor: 0,
  };
}
