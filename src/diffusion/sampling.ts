/**
 * @file What all samplers share: their options, the state they yield, and the loop around a step.
 */
import { OptionError } from '../runtime/errors.ts';
import type { PlanOptions } from '../runtime/plan.ts';
import type { DenoisedFunction, Denoiser, Evaluation, RunSettings, Stepper } from './denoiser.ts';
import { createDiffusion, type DiffusionArguments, type GaussianDiffusion } from './gaussian_diffusion.ts';
import { type Scale, scalesAt } from './guidance.ts';
import { gaussianNoise, STREAM } from './noise.ts';
import type { SamplerPart } from './step.ts';

export interface SamplingOptions extends Pick<PlanOptions, 'signal' | 'onCompile' | 'checkFinite'> {
  /** Which timesteps are taken: "25", "ddim25", "quad25", "10,10,5", or "" for all. See `spaceTimesteps`. */
  readonly respacing?: string;
  /** A class for each picture, or null for none: such a picture is not guided. Not needed where classes play no part. */
  readonly labels?: readonly (number | null)[];
  /** Guidance scale: one for all pictures, one for each, or either as a function of the step. 1 by default. */
  readonly scale?: Scale;
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
  /** In place of the clamp: clamp each picture to this quantile of its own magnitudes, and scale back (0.995, say). */
  readonly dynamicThreshold?: number;
  /** Called with each prediction of x_0 [N, C, H, W], after clamping and before guidance; its result is used instead. */
  readonly denoisedFn?: DenoisedFunction;
  /** Start from a picture with noise on it instead of from noise alone. */
  readonly image?: ImageStart;
  /** Keep a part of a picture and make the rest. */
  readonly inpaint?: Inpainting;
  /** The smaller pictures [N, C, h, w] that a super-resolution model enlarges. */
  readonly lowRes?: Float32Array;
  /** The diffusion process, where the checkpoint does not tell or should be overruled. */
  readonly diffusion?: DiffusionArguments;
}

export interface ImageStart {
  /** [N, C, H, W] in [-1, 1]. */
  readonly pictures: Float32Array;
  /** Share of the timesteps that are taken, above 0 to 1: how much of the picture is made anew. */
  readonly strength: number;
}

export interface Inpainting {
  /** [N, C, H, W] in [-1, 1]; what it holds where the mask is 1 does not matter. */
  readonly pictures: Float32Array;
  /** [N, C, H, W]: 1 where the picture is to be made, 0 where it is kept. */
  readonly mask: Float32Array;
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
  /** The gradient that guided the step, scale included, [N, C, H, W]; null without a classifier. */
  gradient(): Promise<Float32Array | null>;
  /** log p(k | x) of every class where the gradient was taken, [N, classes]; null without a classifier. */
  logProbs(): Promise<Float32Array | null>;
}

/** One step of a sampler: usually one evaluation of the models, for a method of second order two. */
export interface SamplerStep {
  readonly t: number;
  readonly evaluations: readonly Evaluation[];
}

export interface Sampler {
  readonly part: SamplerPart;
  /** The steps of a run, in order. */
  steps(process: GaussianDiffusion): SamplerStep[];
}

export type SamplingRun = AsyncGenerator<SamplingStep, void, undefined>;

/** The process a run uses: the checkpoint's, unless the options say otherwise. */
export function processOf(
  denoiser: Denoiser,
  { diffusion, respacing = '' }: Pick<SamplingOptions, 'diffusion' | 'respacing'>,
): GaussianDiffusion {
  const args = diffusion ?? denoiser.unet.config.diffusion;
  if (!args) throw new OptionError('the checkpoint does not describe its diffusion process; give it as an option');
  return createDiffusion(args, respacing);
}

/** Timesteps of a process from the last to the first, each with the one that follows it. */
export const descending = ({ length }: GaussianDiffusion): { t: number; next: number }[] =>
  Array.from({ length }, (_, i) => ({ t: length - 1 - i, next: length - 2 - i }));

/** Runs a sampler, one state a step. Leaving the loop early, or the signal, ends the run after the current step. */
export async function* runSampler(
  denoiser: Denoiser,
  sampler: Sampler,
  process: GaussianDiffusion,
  options: SamplingOptions,
): SamplingRun {
  const { signal, inpaint, lowRes, denoisedFn: hook, dynamicThreshold = null, scale = 1 } = options;
  if (dynamicThreshold !== null && !(dynamicThreshold > 0 && dynamicThreshold <= 1)) {
    throw new OptionError(`dynamicThreshold should be above 0 and at most 1, found ${dynamicThreshold}`);
  }
  const settings: RunSettings = {
    process,
    labels: options.labels ?? [],
    clipDenoised: options.clipDenoised ?? true,
    dynamicThreshold,
    seed: options.seed ?? 0,
    firstImage: options.firstImage ?? 0,
  };
  signal?.throwIfAborted();
  const features = {
    dynamicThreshold: dynamicThreshold !== null,
    inpaint: inpaint !== undefined,
    hook: hook !== undefined,
  };
  const stepper = await denoiser.stepper(sampler.part, features, options);
  stepper.begin(settings);
  if (inpaint) stepper.setKnown(inpaint.pictures, inpaint.mask);
  if (denoiser.lowRes) {
    if (!lowRes) throw new OptionError('a super-resolution model needs the smaller pictures (lowRes)');
    stepper.setLowRes(lowRes);
  }
  const steps = remaining(sampler.steps(process), options);
  await setStart(stepper, settings, steps[0]!.t, options);

  for (const [index, { t, evaluations }] of steps.entries()) {
    const timestep = process.timestepMap[t]!;
    if (options.stateBefore) stepper.setSample(options.stateBefore(index));
    if (options.noise && sampler.part.noise === 'given') stepper.setNoise(options.noise(index));
    const place = { index, count: steps.length, timestep, sigma: process.sqrt_recipm1_alphas_cumprod[t]! };
    stepper.setScale(scalesAt(scale, place, denoiser.guidance, settings.labels, denoiser.shape.n));
    for (const evaluation of evaluations) await stepper.evaluate(settings, evaluation, { signal, hook });
    await stepper.assertFinite(`in step ${index + 1} of ${steps.length} (timestep ${timestep})`);
    yield stateOf(stepper, { index, count: steps.length, t, timestep });
  }
}

/** The steps that are left when the run starts from a picture. */
function remaining(steps: readonly SamplerStep[], { image, start }: SamplingOptions): readonly SamplerStep[] {
  if (!image) return steps;
  if (start) throw new OptionError('start and image exclude each other');
  if (!(image.strength > 0 && image.strength <= 1)) {
    throw new OptionError(`strength should be above 0 and at most 1, found ${image.strength}`);
  }
  return steps.slice(steps.length - Math.max(1, Math.round(image.strength * steps.length)));
}

/** x at the first timestep: given, a picture with noise on it, or noise. */
async function setStart(
  stepper: Stepper,
  settings: RunSettings,
  t: number,
  { start, image }: SamplingOptions,
): Promise<void> {
  if (start) return stepper.setSample(start);
  if (!image) return stepper.startFromNoise(settings);
  const { seed, firstImage, process } = settings;
  const { shape } = stepper.denoiser;
  const noise = gaussianNoise({ seed, firstImage, step: 0, stream: STREAM.start }, shape);
  if (image.pictures.length !== noise.length) {
    throw new OptionError(`the pictures should hold ${noise.length} values, found ${image.pictures.length}`);
  }
  const a = process.sqrt_alphas_cumprod[t]!;
  const b = process.sqrt_one_minus_alphas_cumprod[t]!;
  stepper.setSample(noise.map((value, i) => a * image.pictures[i]! + b * value));
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
