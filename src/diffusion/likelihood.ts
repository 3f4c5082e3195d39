/**
 * @file Bits per dimension of pictures under a model, and the values of the training losses (Nichol & Dhariwal 2021).
 *
 * The model runs on the GPU; the rest is a few sums over its output, in float64, since the likelihood of the last step is a
 * difference of nearly equal numbers.
 */
import { OptionError } from '../runtime/errors.ts';
import type { Denoiser, RunSettings, Stepper } from './denoiser.ts';
import {
  type GaussianDiffusion,
  modelTimestep,
  startCoefficients,
  varianceCoefficients,
} from './gaussian_diffusion.ts';
import { gaussianNoise, STREAM } from './noise.ts';
import { processOf, type SamplingOptions } from './sampling.ts';
import type { SamplerPart } from './step.ts';

type Values = ArrayLike<number>;

/** Only the model's output, no step. */
const PREDICT: SamplerPart = { key: 'predict', noise: 'none', guides: 'score', append: () => ({}) };

/** x_t of x_0: sqrt(abar) * x_0 + sqrt(1 - abar) * noise, at each picture's own timestep. */
export function diffuse(process: GaussianDiffusion, xStart: Values, noise: Values, t: readonly number[]): Float32Array {
  const size = xStart.length / t.length;
  return Float32Array.from({ length: xStart.length }, (_, i) => {
    const at = t[Math.floor(i / size)]!;
    return process.sqrt_alphas_cumprod[at]! * xStart[i]! + process.sqrt_one_minus_alphas_cumprod[at]! * noise[i]!;
  });
}

/** What a model says of one value of x_t. */
interface Prediction {
  /** Clipped if asked for. */
  readonly xStart: number;
  /** Of p(x_{t-1} | x_t). */
  readonly mean: number;
  readonly logVariance: number;
}

function predict(
  process: GaussianDiffusion,
  t: number,
  x: number,
  output: number,
  v: number,
  clip: boolean,
): Prediction {
  const { x: a, output: b } = startCoefficients(process, t);
  const raw = a * x + b * output;
  const xStart = clip ? Math.min(1, Math.max(-1, raw)) : raw;
  const posterior = process.posterior_mean_coef1[t]! * xStart + process.posterior_mean_coef2[t]! * x;
  const mean = process.mean_type === 'previous_x' ? output : posterior;
  const { minLog, maxLog } = varianceCoefficients(process, t);
  const fraction = (v + 1) / 2;
  const logVariance =
    process.var_type === 'learned'
      ? v
      : process.var_type === 'learned_range'
        ? fraction * maxLog + (1 - fraction) * minLog
        : maxLog;
  return { xStart, mean, logVariance };
}

/** KL divergence of two normal distributions, in nats. */
const normalKl = (mean1: number, log1: number, mean2: number, log2: number): number =>
  0.5 * (-1 + log2 - log1 + Math.exp(log1 - log2) + (mean1 - mean2) ** 2 * Math.exp(-log2));

/** The approximation of the normal distribution function that the original uses. */
const normalCdf = (z: number): number => 0.5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));

/** log p of a value among 256 levels on [-1, 1], the outer ones open, under a normal distribution. */
function discretizedLogLikelihood(x: number, mean: number, logScale: number): number {
  const inverse = Math.exp(-logScale);
  const upper = normalCdf(inverse * (x - mean + 1 / 255));
  const lower = normalCdf(inverse * (x - mean - 1 / 255));
  const floor = (p: number) => Math.log(Math.max(p, 1e-12));
  if (x < -0.999) return floor(upper);
  return x > 0.999 ? floor(1 - lower) : floor(upper - lower);
}

/** Terms of one timestep, a value for each picture. */
export interface TimestepTerms {
  /** Bits per dimension of the variational bound. */
  readonly vb: number[];
  readonly xstart_mse: number[];
  readonly mse: number[];
}

/** The model's output [N, C, ...] and v, and what it was asked about. */
interface Asked {
  readonly xStart: Values;
  readonly x: Values;
  readonly noise: Values;
  readonly output: Values;
  readonly v: Values | null;
}

/** The variational bound's term, and the errors of x_0 and of eps, at each picture's own timestep. */
export function timestepTerms(
  process: GaussianDiffusion,
  t: readonly number[],
  asked: Asked,
  clip: boolean,
): TimestepTerms {
  const { xStart, x, noise, output, v } = asked;
  const size = xStart.length / t.length;
  const terms: TimestepTerms = { vb: [], xstart_mse: [], mse: [] };
  t.forEach((at, image) => {
    const posteriorLog = process.posterior_log_variance_clipped[at]!;
    let vb = 0;
    let startError = 0;
    let noiseError = 0;
    for (let i = image * size; i < (image + 1) * size; i++) {
      const found = predict(process, at, x[i]!, output[i]!, v?.[i] ?? 0, clip);
      const mean = process.posterior_mean_coef1[at]! * xStart[i]! + process.posterior_mean_coef2[at]! * x[i]!;
      vb +=
        at === 0
          ? -discretizedLogLikelihood(xStart[i]!, found.mean, 0.5 * found.logVariance)
          : normalKl(mean, posteriorLog, found.mean, found.logVariance);
      startError += (found.xStart - xStart[i]!) ** 2;
      const eps =
        (process.sqrt_recip_alphas_cumprod[at]! * x[i]! - found.xStart) / process.sqrt_recipm1_alphas_cumprod[at]!;
      noiseError += (eps - noise[i]!) ** 2;
    }
    terms.vb.push(vb / size / Math.LN2);
    terms.xstart_mse.push(startError / size);
    terms.mse.push(noiseError / size);
  });
  return terms;
}

/** Bits per dimension that separate q(x_T | x_0) from noise. */
export function priorBitsPerDim(process: GaussianDiffusion, xStart: Values, images: number): number[] {
  const last = process.length - 1;
  const size = xStart.length / images;
  return Array.from({ length: images }, (_, image) => {
    let sum = 0;
    for (let i = image * size; i < (image + 1) * size; i++) {
      const mean = process.sqrt_alphas_cumprod[last]! * xStart[i]!;
      sum += normalKl(mean, process.log_one_minus_alphas_cumprod[last]!, 0, 0);
    }
    return sum / size / Math.LN2;
  });
}

export interface LikelihoodOptions
  extends Pick<
    SamplingOptions,
    'respacing' | 'labels' | 'seed' | 'firstImage' | 'clipDenoised' | 'diffusion' | 'signal' | 'onCompile' | 'lowRes'
  > {
  /** [N, C, H, W] in [-1, 1]. */
  readonly pictures: Float32Array;
  /** The noise of each timestep, the last timestep first, in place of the seed's. */
  readonly noise?: (index: number) => Float32Array;
  /** Called after each timestep. */
  readonly onStep?: (step: LikelihoodStep) => void;
}

/** The terms of one timestep; after the last one all of them are known. */
export interface LikelihoodStep extends TimestepTerms {
  readonly index: number;
  readonly count: number;
  readonly t: number;
}

/**
 * Walks the variational bound from the last timestep to the first, one state a timestep. `bitsPerDim` adds it up.
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export async function* likelihoodSteps(
  denoiser: Denoiser,
  options: LikelihoodOptions,
): AsyncGenerator<LikelihoodStep, void, undefined> {
  const process = processOf(denoiser, options);
  const { pictures, signal, clipDenoised = true } = options;
  const stepper = await begin(denoiser, process, options);
  for (let index = 0; index < process.length; index++) {
    const t = process.length - 1 - index;
    const noise = options.noise?.(index) ?? stepNoise(denoiser, options, t);
    const all = Array<number>(denoiser.shape.n).fill(t);
    const asked = await ask(stepper, process, pictures, noise, all, signal);
    yield { index, count: process.length, t, ...timestepTerms(process, all, asked, clipDenoised) };
  }
}

export interface Likelihood {
  /** Bits per dimension of each picture: the sum of `vb` over the timesteps, and the prior. */
  readonly total: number[];
  readonly prior: number[];
  /** By timestep, the last one first. */
  readonly steps: readonly LikelihoodStep[];
}

/**
 * Bits per dimension of pictures (Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, section 2.1).
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export async function bitsPerDim(denoiser: Denoiser, options: LikelihoodOptions): Promise<Likelihood> {
  const steps: LikelihoodStep[] = [];
  for await (const step of likelihoodSteps(denoiser, options)) {
    options.onStep?.(step);
    steps.push(step);
  }
  const prior = priorBitsPerDim(processOf(denoiser, options), options.pictures, denoiser.shape.n);
  const total = prior.map((bits, image) => steps.reduce((sum, { vb }) => sum + vb[image]!, bits));
  return { total, prior, steps };
}

export type LossType = 'mse' | 'rescaled_mse' | 'kl' | 'rescaled_kl';

export interface LossOptions extends Omit<LikelihoodOptions, 'noise' | 'clipDenoised' | 'onStep'> {
  /** A timestep of the respaced process for each picture. */
  readonly t: readonly number[];
  readonly noise?: Float32Array;
  readonly loss: LossType;
}

export interface LossTerms {
  readonly loss: number[];
  readonly mse: number[] | null;
  readonly vb: number[] | null;
}

/** The training loss of each picture, and its parts (Nichol & Dhariwal 2021, section 3.1). */
export async function trainingLoss(denoiser: Denoiser, options: LossOptions): Promise<LossTerms> {
  const process = processOf(denoiser, options);
  const { pictures, t, signal, loss } = options;
  const stepper = await begin(denoiser, process, options);
  const noise = options.noise ?? stepNoise(denoiser, options, 0);
  const asked = await ask(stepper, process, pictures, noise, t, signal);
  const learned = process.var_type === 'learned' || process.var_type === 'learned_range';
  if (loss === 'kl' || loss === 'rescaled_kl') {
    const factor = loss === 'kl' ? 1 : process.length;
    return { loss: timestepTerms(process, t, asked, false).vb.map((value) => value * factor), mse: null, vb: null };
  }
  const mse = meanSquaredError(process, t, asked);
  if (!learned) return { loss: mse, mse, vb: null };
  // Rescaled so that the bound's share does not depend on the number of timesteps.
  const factor = loss === 'rescaled_mse' ? process.length / 1000 : 1;
  const vb = timestepTerms(process, t, asked, false).vb.map((value) => value * factor);
  return { loss: mse.map((value, i) => value + vb[i]!), mse, vb };
}

function meanSquaredError(
  process: GaussianDiffusion,
  t: readonly number[],
  { xStart, x, noise, output }: Asked,
): number[] {
  const size = xStart.length / t.length;
  return t.map((at, image) => {
    let sum = 0;
    for (let i = image * size; i < (image + 1) * size; i++) {
      const [start, eps] = [xStart[i]!, noise[i]!];
      const target = {
        epsilon: eps,
        start_x: start,
        previous_x: process.posterior_mean_coef1[at]! * start + process.posterior_mean_coef2[at]! * x[i]!,
        v: process.sqrt_alphas_cumprod[at]! * eps - process.sqrt_one_minus_alphas_cumprod[at]! * start,
      }[process.mean_type];
      sum += (target - output[i]!) ** 2;
    }
    return sum / size;
  });
}

async function begin(
  denoiser: Denoiser,
  process: GaussianDiffusion,
  options: Omit<LikelihoodOptions, 'noise'>,
): Promise<Stepper> {
  const { n, c, h, w } = denoiser.shape;
  if (options.pictures.length !== n * c * h * w) {
    throw new OptionError(`the pictures should hold ${n * c * h * w} values, found ${options.pictures.length}`);
  }
  if (denoiser.guidance.kind !== 'none')
    throw new OptionError('a likelihood is that of the model alone, without guidance');
  const features = { dynamicThreshold: false, inpaint: false, hook: false };
  const stepper = await denoiser.stepper(PREDICT, features, options);
  const settings: RunSettings = {
    process,
    labels: options.labels ?? [],
    clipDenoised: false,
    dynamicThreshold: null,
    seed: options.seed ?? 0,
    firstImage: options.firstImage ?? 0,
  };
  stepper.begin(settings);
  if (options.lowRes) stepper.setLowRes(options.lowRes);
  return stepper;
}

const stepNoise = (
  denoiser: Denoiser,
  { seed = 0, firstImage = 0 }: Omit<LikelihoodOptions, 'noise'>,
  step: number,
): Float32Array => gaussianNoise({ seed, firstImage, step, stream: STREAM.step }, denoiser.shape);

/** Runs the model on noised pictures. */
async function ask(
  stepper: Stepper,
  process: GaussianDiffusion,
  xStart: Float32Array,
  noise: Float32Array,
  t: readonly number[],
  signal: AbortSignal | undefined,
): Promise<Asked> {
  const x = diffuse(process, xStart, noise, t);
  stepper.setSample(x);
  await stepper.predict(
    t.map((at) => modelTimestep(process, at)),
    signal,
  );
  return { xStart, x, noise, output: (await stepper.read('mean'))!, v: await stepper.read('v') };
}
