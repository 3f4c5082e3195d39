/**
 * @file DDIM: the deterministic sampler, and with eta the family between it and DDPM (Song et al. 2020).
 */
import { OptionError } from '../runtime/errors.ts';
import type { Denoiser } from './denoiser.ts';
import type { GaussianDiffusion } from './gaussian_diffusion.ts';
import { processOf, runSampler, type Sampler, type SamplingOptions, type SamplingStep } from './sampling.ts';
import { ddimUpdate } from './step_operations.ts';

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
export function ddim(denoiser: Denoiser, options: DdimOptions = {}): AsyncGenerator<SamplingStep, void, undefined> {
  const { eta = 0 } = options;
  if (!(eta >= 0 && Number.isFinite(eta))) throw new OptionError(`eta should be a number from 0 on, found ${eta}`);
  return runSampler(denoiser, ddimSampler(eta, options), processOf(denoiser, options), options);
}

const ddimSampler = (eta: number, options: SamplingOptions): Sampler => ({
  part: {
    key: 'ddim',
    noise: eta === 0 ? 'none' : options.noise ? 'given' : 'counter',
    append: ddimUpdate,
  },
  timesteps: (process) => Array.from({ length: process.length }, (_, i) => process.length - 1 - i),
  coefficients: (process, t) => ddimCoefficients(process, t, eta),
});

/** The uniform of shaders/diffusion/ddim_step.wgsl at timestep `t`. */
export function ddimCoefficients(process: GaussianDiffusion, t: number, eta: number) {
  const abar = process.alphas_cumprod[t]!;
  const abarPrev = process.alphas_cumprod_prev[t]!;
  const sigma = eta * Math.sqrt((1 - abarPrev) / (1 - abar)) * Math.sqrt(1 - abar / abarPrev);
  return {
    sqrt_recip: process.sqrt_recip_alphas_cumprod[t]!,
    sqrt_recipm1: process.sqrt_recipm1_alphas_cumprod[t]!,
    gradient_factor: process.sqrt_one_minus_alphas_cumprod[t]!,
    start_factor: Math.sqrt(abarPrev),
    // Rounding may leave a tiny negative number where sigma takes all of the variance.
    eps_factor: Math.sqrt(Math.max(0, 1 - abarPrev - sigma ** 2)),
    noise_factor: t === 0 ? 0 : sigma,
  };
}
