/**
 * @file `sample`: any number of pictures with one call.
 */
import type { Model, SuperResolutionModel, UNetModel } from '../checkpoints/model.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { type DdimOptions, ddim } from './ddim.ts';
import { ddpm } from './ddpm.ts';
import { Denoiser, type DenoiserOptions } from './denoiser.ts';
import { dpmSolver } from './dpm_solver.ts';
import type { Guidance, Scale } from './guidance.ts';
import { heun } from './heun.ts';
import type { SamplingStep } from './sampling.ts';

export interface SampleOptions
  extends Omit<DdimOptions, 'firstImage' | 'noise' | 'stateBefore' | 'lowRes'>,
    Pick<DenoiserOptions, 'height' | 'width'> {
  readonly unet: Model;
  readonly guidance: Guidance;
  /** A class for each picture, or null for none; as many pictures are made. */
  readonly labels: readonly (number | null)[];
  /** "ddim" by default. */
  readonly sampler?: SamplerName;
  /** The smaller pictures that a super-resolution model enlarges: one for each label. */
  readonly lowRes?: SmallPictures;
  /** At most so many pictures at once; 16 by default. Pictures do not depend on it. */
  readonly maxBatch?: number;
  /** Called after each step with its state, and with how many steps of how many are done in all batches. */
  readonly onStep?: (step: SamplingStep, progress: SampleProgress) => void | Promise<void>;
}

export interface SmallPictures {
  /** [N, C, height, width] in [-1, 1]. */
  readonly pictures: Float32Array;
  readonly height: number;
  readonly width: number;
}

/** The samplers by name. Those of the ODE are deterministic; `ddpm` is not, nor is `ddim` with an eta. */
export const SAMPLERS = { ddim, ddpm, dpm: dpmSolver, heun } as const;

export type SamplerName = keyof typeof SAMPLERS;

export interface SampleProgress {
  readonly done: number;
  readonly total: number;
  /** Number of the batch's first picture. */
  readonly firstImage: number;
}

export interface SampleResult {
  /** [N, C, H, W], about [-1, 1]: the last step's x, not clamped. */
  readonly samples: Float32Array;
  readonly shape: readonly [number, number, number, number];
  /** Denoising steps of each batch, and batches. */
  readonly steps: number;
  readonly batches: number;
}

/**
 * Makes a picture for each label. Batches are of one size, so that one plan serves all; the last may be filled up with
 * pictures that are thrown away.
 *
 * @throws OptionError if an option makes no sense; the signal's reason if it is aborted
 */
export async function sample(runtime: Runtime, options: SampleOptions): Promise<SampleResult> {
  const { unet, guidance, labels, sampler = 'ddim', maxBatch = 16, onStep, height, width, lowRes, ...rest } = options;
  if (unet.isClassifier()) throw new OptionError('sample needs a U-Net; this model is a classifier');
  if (labels.length === 0) throw new OptionError('sample needs at least one label');
  const batch = batchSize(labels.length, maxBatch);
  const denoiser = new Denoiser(runtime, {
    unet: unet as UNetModel | SuperResolutionModel,
    guidance,
    batch,
    ...(height === undefined ? {} : { height }),
    ...(width === undefined ? {} : { width }),
    ...(lowRes ? { lowRes: { height: lowRes.height, width: lowRes.width } } : {}),
  });
  const { c, h, w } = denoiser.shape;
  const picture = c * h * w;
  const samples = new Float32Array(labels.length * picture);
  const run = SAMPLERS[sampler];
  const batches = Math.ceil(labels.length / batch);
  let steps = 0;
  let done = 0;
  try {
    for (let first = 0; first < labels.length; first += batch) {
      const part = new Part(labels.length, first, batch);
      let last: SamplingStep | null = null;
      for await (const step of run(denoiser, { ...rest, ...part.of(options, picture, c), firstImage: first })) {
        await onStep?.(step, { done: ++done, total: batches * step.count, firstImage: first });
        last = step;
      }
      steps = last!.count;
      samples.set((await last!.sample()).subarray(0, part.taken * picture), first * picture);
    }
  } finally {
    denoiser.dispose();
  }
  return { samples, shape: [labels.length, c, h, w], steps, batches };
}

/** One batch of a run: which pictures it holds, and their share of every option that has something for each picture. */
class Part {
  readonly taken: number;
  readonly #count: number;
  readonly #first: number;
  readonly #batch: number;

  constructor(count: number, first: number, batch: number) {
    this.taken = Math.min(batch, count - first);
    this.#count = count;
    this.#first = first;
    this.#batch = batch;
  }

  of({ labels, scale, start, image, inpaint, lowRes }: SampleOptions, picture: number, channels: number) {
    return {
      labels: this.#list(labels),
      ...(scale === undefined ? {} : { scale: this.#scale(scale) }),
      ...(start ? { start: this.#pictures('start', start, picture) } : {}),
      ...(image ? { image: { ...image, pictures: this.#pictures('image.pictures', image.pictures, picture) } } : {}),
      ...(inpaint
        ? {
            inpaint: {
              pictures: this.#pictures('inpaint.pictures', inpaint.pictures, picture),
              mask: this.#pictures('inpaint.mask', inpaint.mask, picture),
            },
          }
        : {}),
      ...(lowRes
        ? { lowRes: this.#pictures('lowRes.pictures', lowRes.pictures, channels * lowRes.height * lowRes.width) }
        : {}),
    };
  }

  /** The batch's entries, filled up with the last of them. */
  #list<T>(all: readonly T[]): T[] {
    return Array.from({ length: this.#batch }, (_, i) => all[this.#first + Math.min(i, this.taken - 1)]!);
  }

  #scale(scale: Scale): Scale {
    const own = (value: number | readonly number[]) => {
      if (typeof value === 'number') return value;
      if (value.length === this.#count) return this.#list(value);
      throw new OptionError(
        `scale should be a number, or one for each of ${this.#count} pictures, found ${value.length}`,
      );
    };
    return typeof scale === 'function' ? (place) => own(scale(place)) : own(scale);
  }

  #pictures(name: string, all: Float32Array, size: number): Float32Array {
    if (all.length !== this.#count * size) {
      throw new OptionError(`${name} should hold ${this.#count} x ${size} values, found ${all.length}`);
    }
    const filled = new Float32Array(this.#batch * size);
    filled.set(all.subarray(this.#first * size, (this.#first + this.taken) * size));
    return filled;
  }
}

/** The largest batch that divides the count, or if only small ones do, equal batches with a remainder filled up. */
export function batchSize(count: number, maxBatch: number): number {
  if (!Number.isInteger(maxBatch) || maxBatch < 1)
    throw new OptionError(`maxBatch should be at least 1, found ${maxBatch}`);
  const most = Math.min(count, maxBatch);
  for (let size = most; size > most / 2; size--) if (count % size === 0) return size;
  return Math.ceil(count / Math.ceil(count / most));
}
