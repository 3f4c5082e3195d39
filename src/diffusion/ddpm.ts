/**
 * @file DDPM: ancestral sampling (Ho et al. 2020), with fixed or learned variance (Nichol & Dhariwal 2021).
 */
import type { Denoiser } from './denoiser.ts';
import { type GaussianDiffusion, varianceCoefficients } from './gaussian_diffusion.ts';
import { descending, processOf, runSampler, type Sampler, type SamplingOptions, type SamplingRun } from './sampling.ts';
import { ancestralUpdate, combine, NO_LIMIT } from './step_operations.ts';

/**
 * Samples with DDPM, one state a step.
 *
 * Classifier guidance shifts the mean by the variance times s * grad log p(y | .) (Dhariwal & Nichol 2021, algorithm 1),
 * the gradient taken at x_t, as the original code does, or with `at: 'mean'` at the mean, as the paper derives it.
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export function ddpm(denoiser: Denoiser, options: SamplingOptions = {}): SamplingRun {
  const process = processOf(denoiser, options);
  return runSampler(denoiser, ddpmSampler(process, options), process, options);
}

const ddpmSampler = ({ var_type, mean_type }: GaussianDiffusion, { noise }: SamplingOptions): Sampler => ({
  part: {
    key: `ddpm ${var_type} ${mean_type === 'previous_x'}`,
    noise: noise ? 'given' : 'counter',
    guides: 'mean',
    append: (graph, { x, start, mean: output, v, meanGradient, noise: drawn }) => {
      const predicted = mean_type === 'previous_x' ? output : null;
      let posterior: ReturnType<typeof combine> | null = null;
      const gradient = meanGradient?.(() => {
        posterior = predicted ? null : combine(graph, 'posterior mean', x, start);
        return predicted ?? posterior!.y;
      });
      const given = (posterior as ReturnType<typeof combine> | null) ?? null;
      const inputs = { x, start, mean: given?.y ?? predicted, v, gradient: gradient ?? null, noise: drawn! };
      const step = ancestralUpdate(graph, inputs, var_type);
      return given ? { step, posterior: given.factors } : { step };
    },
  },
  steps: (process) =>
    descending(process).map(({ t, next }) => ({
      t,
      evaluations: [{ t, next, coefficients: ddpmCoefficients(process, t) }],
    })),
});

/** The uniforms of shaders/diffusion/ddpm_step.wgsl, and of the mean where it is made apart, at timestep `t`. */
export function ddpmCoefficients(process: GaussianDiffusion, t: number) {
  const { variance, minLog, maxLog } = varianceCoefficients(process, t);
  const start_factor = process.posterior_mean_coef1[t]!;
  const x_factor = process.posterior_mean_coef2[t]!;
  return {
    step: { start_factor, x_factor, variance, min_log: minLog, max_log: maxLog, noise_factor: t === 0 ? 0 : 1 },
    posterior: { a_factor: x_factor, b_factor: start_factor, limit: NO_LIMIT },
  };
}
