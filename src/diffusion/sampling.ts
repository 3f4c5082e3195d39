/**
 * @file What all samplers share: their options, the state they yield, and the loop around a step.
 */
import { OptionError } from '../runtime/errors.ts';
import type { PlanOptions } from '../runtime/plan.ts';
import type { Denoiser, RunSettings, SamplerPart, Stepper } from './denoiser.ts';
import { createDiffusion, type DiffusionArguments, type GaussianDiffusion } from './gaussian_diffusion.ts';

export interface SamplingOptions extends Pick<PlanOptions, 'signal' | 'onCompile'> {
  /** Which timesteps are taken: "25", "ddim25", "10,10,5", or "" for all. See `spaceTimesteps`. */
  readonly respacing?: string;
  /** A class for each picture, or null for none: such a picture is not guided. Not needed where classes play no part. */
  readonly labels?: readonly (number | null)[];
  /** Guidance scale s: one for all pictures, or one for each. 1 by default. */
  readonly scale?: number | readonly number[];
  /** Seed of all noise: an integer from 0 to 2^53 - 1. */
  readonly seed?: number;
  /** Number of this batch's first picture in a larger run, so that batches do not repeat each other's noise. */
  readonly firstImage?: number;
  /** x_T [N, C, H, W], in place of the seed's. */
  readonly start?: Float32Array;
  /** The noise of each step in the order they are taken, [N, C, H, W] each, in place of the seed's. */
  readonly noise?: (index: number) => Float32Array;
  /** x_t before each step [N, C, H, W], in place of the result of the step before: to look at single steps. */
  readonly stateBefore?: (index: number) => Float32Array;
  /** Clamp the prediction of x_0 to [-1, 1]; true by default. */
  readonly clipDenoised?: boolean;
  /** The diffusion process, where the checkpoint does not tell or should be overruled. */
  readonly diffusion?: DiffusionArguments;
}

/** The state after a step. The readers fetch it from the GPU, and must be called before the next step is asked for. */
export interface SamplingStep {
  /** 0 for the first step taken. */
  readonly index: number;
  /** Steps in the run. */
  readonly count: number;
  /** The timestep just left: of the respaced process, and of the original one. */
  readonly t: number;
  readonly timestep: number;
  /** x after the step, [N, C, H, W]. */
  sample(): Promise<Float32Array>;
  /** The prediction of x_0 that the step used, [N, C, H, W]. */
  predXstart(): Promise<Float32Array>;
  /** The model's prediction after classifier-free mixing, [N, C, H, W], and its variance channels, if any. */
  modelOutput(): Promise<{ mean: Float32Array; v: Float32Array | null }>;
  /** s * grad log p(y | x_t), [N, C, H, W]; null without a classifier. */
  gradient(): Promise<Float32Array | null>;
  /** log p(k | x_t) of every class, [N, classes]; null without a classifier. */
  logProbs(): Promise<Float32Array | null>;
}

/** A sampler: its part of the plan, the order of its timesteps, and the numbers of each step. */
export interface Sampler {
  readonly part: SamplerPart;
  /** Timesteps of the respaced process in the order they are taken. */
  timesteps(process: GaussianDiffusion): number[];
  coefficients(process: GaussianDiffusion, t: number): Readonly<Record<string, number>>;
}

/** The process a run uses: the checkpoint's, unless the options say otherwise. */
export function processOf(denoiser: Denoiser, { diffusion, respacing = '' }: SamplingOptions): GaussianDiffusion {
  const args = diffusion ?? denoiser.unet.config.diffusion;
  if (!args) throw new OptionError('the checkpoint does not describe its diffusion process; give it as an option');
  return createDiffusion(args, respacing);
}

/** Runs a sampler, one state a step. Leaving the loop early, or the signal, ends the run after the current step. */
export async function* runSampler(
  denoiser: Denoiser,
  sampler: Sampler,
  process: GaussianDiffusion,
  options: SamplingOptions,
): AsyncGenerator<SamplingStep, void, undefined> {
  const { signal } = options;
  const settings: RunSettings = {
    process,
    labels: options.labels ?? [],
    clipDenoised: options.clipDenoised ?? true,
    seed: options.seed ?? 0,
    firstImage: options.firstImage ?? 0,
  };
  signal?.throwIfAborted();
  const stepper = await denoiser.stepper(sampler.part, options);
  stepper.begin(settings);
  stepper.setScale(scales(options.scale ?? 1, denoiser.shape.n).map((s, i) => (settings.labels[i] === null ? 0 : s)));
  if (options.start) stepper.setSample(options.start);
  else await stepper.startFromNoise(settings);

  const timesteps = sampler.timesteps(process);
  for (const [index, t] of timesteps.entries()) {
    if (options.stateBefore) stepper.setSample(options.stateBefore(index));
    if (options.noise && sampler.part.noise === 'given') stepper.setNoise(options.noise(index));
    await stepper.step(settings, t, sampler.coefficients(process, t), signal);
    yield stateOf(stepper, { index, count: timesteps.length, t, timestep: process.timestepMap[t]! });
  }
}

function scales(scale: number | readonly number[], count: number): readonly number[] {
  const list = typeof scale === 'number' ? Array<number>(count).fill(scale) : scale;
  if (list.length !== count || !list.every(Number.isFinite)) {
    throw new OptionError(
      `scale should be a number, or one for each of ${count} pictures, found ${JSON.stringify(scale)}`,
    );
  }
  return list;
}

function stateOf(stepper: Stepper, place: Pick<SamplingStep, 'index' | 'count' | 't' | 'timestep'>): SamplingStep {
  return {
    ...place,
    sample: async () => (await stepper.read('sample'))!,
    predXstart: async () => (await stepper.read('predXstart'))!,
    modelOutput: async () => ({ mean: (await stepper.read('mean'))!, v: await stepper.read('v') }),
    gradient: () => stepper.read('gradient'),
    logProbs: () => stepper.read('logProbs'),
  };
}
