/**
 * @file The diffusion process: every table a sampler reads, in float64 (Ho et al. 2020; Nichol & Dhariwal 2021).
 */
import { spaceTimesteps } from './respacing.ts';
import { betaSchedule, type NoiseSchedule } from './schedule.ts';

/** What the model's first channels mean; `v` is sqrt(abar) * eps - sqrt(1 - abar) * x_0 (Salimans & Ho 2022). */
export type MeanType = 'epsilon' | 'start_x' | 'previous_x' | 'v';

/**
 * Where the variance of p(x_{t-1} | x_t) comes from: the posterior's (`fixed_small`), beta_t (`fixed_large`), the model's
 * own logarithm (`learned`), or the model's interpolation between both in the logarithm (`learned_range`).
 */
export type VarianceType = 'fixed_small' | 'fixed_large' | 'learned' | 'learned_range';

/** The process a model was trained with. */
export interface DiffusionArguments {
  readonly steps: number;
  readonly noise_schedule: NoiseSchedule;
  readonly var_type: VarianceType;
  readonly mean_type: MeanType;
  /** The model is told t * 1000 / steps instead of t. */
  readonly rescale_timesteps: boolean;
}

/** Tables indexed by the timestep of the respaced process. */
export interface GaussianDiffusion extends DiffusionArguments {
  /** Timesteps of the respaced process. */
  readonly length: number;
  /** For each of them, the timestep of the original process. */
  readonly timestepMap: readonly number[];
  readonly betas: Float64Array;
  readonly alphas_cumprod: Float64Array;
  readonly alphas_cumprod_prev: Float64Array;
  readonly alphas_cumprod_next: Float64Array;
  readonly sqrt_alphas_cumprod: Float64Array;
  readonly sqrt_one_minus_alphas_cumprod: Float64Array;
  readonly log_one_minus_alphas_cumprod: Float64Array;
  readonly sqrt_recip_alphas_cumprod: Float64Array;
  readonly sqrt_recipm1_alphas_cumprod: Float64Array;
  readonly posterior_variance: Float64Array;
  /** The first entry, log 0, is replaced by the second. */
  readonly posterior_log_variance_clipped: Float64Array;
  readonly posterior_mean_coef1: Float64Array;
  readonly posterior_mean_coef2: Float64Array;
}

/**
 * @param respacing see `spaceTimesteps`; "" keeps every timestep
 * @throws OptionError if the process cannot be respaced so
 */
export function createDiffusion(args: DiffusionArguments, respacing = ''): GaussianDiffusion {
  const original = betaSchedule(args.noise_schedule, args.steps);
  const timestepMap = spaceTimesteps(args.steps, respacing);
  const kept = new Set(timestepMap);
  const betas = new Float64Array(timestepMap.length);
  let product = 1;
  let last = 1;
  let at = 0;
  original.forEach((beta, t) => {
    product *= 1 - beta;
    if (!kept.has(t)) return;
    betas[at++] = 1 - product / last;
    last = product;
  });
  return { ...args, length: betas.length, timestepMap, ...tables(betas) };
}

/** Every table that follows from the betas. */
export function tables(betas: Float64Array) {
  const length = betas.length;
  const alphas_cumprod = new Float64Array(length);
  let product = 1;
  betas.forEach((beta, t) => {
    product *= 1 - beta;
    alphas_cumprod[t] = product;
  });
  const from = (value: (t: number) => number) => Float64Array.from({ length }, (_, t) => value(t));
  const alphas_cumprod_prev = from((t) => (t === 0 ? 1 : alphas_cumprod[t - 1]!));
  const posterior_variance = from((t) => (betas[t]! * (1 - alphas_cumprod_prev[t]!)) / (1 - alphas_cumprod[t]!));
  return {
    betas,
    alphas_cumprod,
    alphas_cumprod_prev,
    alphas_cumprod_next: from((t) => alphas_cumprod[t + 1] ?? 0),
    sqrt_alphas_cumprod: from((t) => Math.sqrt(alphas_cumprod[t]!)),
    sqrt_one_minus_alphas_cumprod: from((t) => Math.sqrt(1 - alphas_cumprod[t]!)),
    log_one_minus_alphas_cumprod: from((t) => Math.log(1 - alphas_cumprod[t]!)),
    sqrt_recip_alphas_cumprod: from((t) => Math.sqrt(1 / alphas_cumprod[t]!)),
    sqrt_recipm1_alphas_cumprod: from((t) => Math.sqrt(1 / alphas_cumprod[t]! - 1)),
    posterior_variance,
    // A process of a single step has no second entry; no noise is added there, so any finite value serves.
    posterior_log_variance_clipped: from((t) => Math.log(posterior_variance[t || 1] ?? betas[0]!)),
    posterior_mean_coef1: from((t) => (betas[t]! * Math.sqrt(alphas_cumprod_prev[t]!)) / (1 - alphas_cumprod[t]!)),
    posterior_mean_coef2: from(
      (t) => ((1 - alphas_cumprod_prev[t]!) * Math.sqrt(1 - betas[t]!)) / (1 - alphas_cumprod[t]!),
    ),
  };
}

/** The number the model is told for timestep `t` of the respaced process. */
export function modelTimestep({ timestepMap, rescale_timesteps, steps }: GaussianDiffusion, t: number): number {
  const original = timestepMap[t]!;
  return rescale_timesteps ? original * (1000 / steps) : original;
}

/** The coefficients a, b of pred_xstart = a * x_t + b * (the model's first channels). */
export function startCoefficients(process: GaussianDiffusion, t: number): { x: number; output: number } {
  switch (process.mean_type) {
    case 'epsilon':
      return { x: process.sqrt_recip_alphas_cumprod[t]!, output: -process.sqrt_recipm1_alphas_cumprod[t]! };
    case 'start_x':
      return { x: 0, output: 1 };
    case 'v':
      return { x: process.sqrt_alphas_cumprod[t]!, output: -process.sqrt_one_minus_alphas_cumprod[t]! };
    case 'previous_x': {
      const coef1 = process.posterior_mean_coef1[t]!;
      return { x: -process.posterior_mean_coef2[t]! / coef1, output: 1 / coef1 };
    }
  }
}

/** The variance of p(x_{t-1} | x_t) where it is fixed, and the two logarithms that a learned range lies between. */
export function varianceCoefficients(process: GaussianDiffusion, t: number) {
  const small = process.posterior_log_variance_clipped[t]!;
  const beta = process.betas[t]!;
  if (process.var_type === 'fixed_small') {
    return { variance: process.posterior_variance[t]!, minLog: small, maxLog: small };
  }
  if (process.var_type === 'fixed_large') {
    // At t = 0 beta would be too large; the original takes the posterior's second entry.
    const variance = t === 0 ? (process.posterior_variance[1] ?? beta) : beta;
    return { variance, minLog: Math.log(variance), maxLog: Math.log(variance) };
  }
  return { variance: 0, minLog: small, maxLog: Math.log(beta) };
}
