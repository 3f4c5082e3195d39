/**
 * @file DDPM: ancestral sampling (Ho et al. 2020), with fixed or learned variance (Nichol & Dhariwal 2021).
 */
import type { Denoiser } from './denoiser.ts';
import { type GaussianDiffusion, varianceCoefficients } from './gaussian_diffusion.ts';
import { processOf, runSampler, type Sampler, type SamplingOptions, type SamplingStep } from './sampling.ts';
import { ddpmUpdate } from './step_operations.ts';

/**
 * Samples with DDPM, one state a step.
 *
 * Classifier guidance shifts the mean by the variance times s * grad log p(y | x_t) (Dhariwal & Nichol 2021, algorithm 1;
 * the gradient at x_t, as the original code has it).
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export function ddpm(denoiser: Denoiser, options: SamplingOptions = {}): AsyncGenerator<SamplingStep, void, undefined> {
  const process = processOf(denoiser, options);
  return runSampler(denoiser, ddpmSampler(process, options), process, options);
}

const ddpmSampler = ({ var_type, mean_type }: GaussianDiffusion, options: SamplingOptions): Sampler => ({
  part: {
    key: `ddpm ${var_type} ${mean_type === 'previous_x'}`,
    noise: options.noise ? 'given' : 'counter',
    append: (graph, inputs) => ddpmUpdate(graph, inputs, var_type, mean_type === 'previous_x'),
  },
  timesteps: (process) => Array.from({ length: process.length }, (_, i) => process.length - 1 - i),
  coefficients: ddpmCoefficients,
});

/** The uniform of shaders/diffusion/ddpm_step.wgsl at timestep `t`. */
export function ddpmCoefficients(process: GaussianDiffusion, t: number) {
  const { variance, minLog, maxLog } = varianceCoefficients(process, t);
  return {
    start_factor: process.posterior_mean_coef1[t]!,
    x_factor: process.posterior_mean_coef2[t]!,
    variance,
    min_log: minLog,
    max_log: maxLog,
    noise_factor: t === 0 ? 0 : 1,
  };
}
