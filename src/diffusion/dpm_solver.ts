/**
 * @file DPM-Solver++(2M): second order in one evaluation a step (Lu et al. 2022, algorithm 2).
 */
import { linearPart } from './ddim.ts';
import type { Denoiser } from './denoiser.ts';
import type { GaussianDiffusion } from './gaussian_diffusion.ts';
import { descending, processOf, runSampler, type Sampler, type SamplingOptions, type SamplingRun } from './sampling.ts';

/**
 * Samples with DPM-Solver++(2M), one state a step. Guidance is that of DDIM: classifier guidance acts on the score.
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export function dpmSolver(denoiser: Denoiser, options: SamplingOptions = {}): SamplingRun {
  return runSampler(denoiser, dpmSolverSampler, processOf(denoiser, options), options);
}

const dpmSolverSampler: Sampler = {
  part: linearPart('none', true),
  steps: (process) =>
    descending(process).map(({ t, next }, index) => ({
      t,
      evaluations: [{ t, next, coefficients: { step: dpmSolverCoefficients(process, t, index === 0) } }],
    })),
};

/** log(sqrt(abar) / sqrt(1 - abar)): half the log signal-to-noise ratio. */
const lambda = (abar: number): number => 0.5 * Math.log(abar / (1 - abar));

/**
 * The uniform of shaders/diffusion/linear_step.wgsl at timestep `t`.
 *
 *   x' = sigma' / sigma * x - alpha' * (exp(-h) - 1) * D       h = lambda' - lambda
 *   D = (1 + 1 / (2 r)) * x_0 - 1 / (2 r) * x_0 of the step before          r = (lambda - lambda of the step before) / h
 *
 * The first step has no step before it, and the last one leads to infinite lambda: both are of first order, D = x_0.
 */
export function dpmSolverCoefficients(process: GaussianDiffusion, t: number, first: boolean) {
  const abar = process.alphas_cumprod[t]!;
  const abarNew = process.alphas_cumprod_prev[t]!;
  const sigmaRatio = Math.sqrt((1 - abarNew) / (1 - abar));
  const h = lambda(abarNew) - lambda(abar); // infinite at the last step
  const gain = -Math.sqrt(abarNew) * Math.expm1(-h);
  const second = !first && t > 0;
  const half = second ? h / (2 * (lambda(abar) - lambda(process.alphas_cumprod[t + 1]!))) : 0;
  return {
    x_factor: sigmaRatio,
    start_factor: gain * (1 + half),
    noise_factor: 0,
    saved_x_factor: 0,
    saved_start_factor: -gain * half,
    store: 1,
  };
}
