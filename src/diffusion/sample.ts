/**
 * @file `sample`: any number of pictures with one call.
 */
import type { Model } from '../checkpoints/model.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { type DdimOptions, ddim } from './ddim.ts';
import { ddpm } from './ddpm.ts';
import { Denoiser, type DenoiserOptions } from './denoiser.ts';
import type { Guidance } from './guidance.ts';
import type { SamplingStep } from './sampling.ts';

export interface SampleOptions
  extends Omit<DdimOptions, 'firstImage' | 'scale' | 'noise' | 'stateBefore'>,
    Pick<DenoiserOptions, 'height' | 'width'> {
  readonly unet: Model;
  readonly guidance: Guidance;
  /** A class for each picture, or null for none; as many pictures are made. */
  readonly labels: readonly (number | null)[];
  readonly scale?: number;
  /** "ddim" by default. */
  readonly sampler?: 'ddim' | 'ddpm';
  /** At most so many pictures at once; 16 by default. Pictures do not depend on it. */
  readonly maxBatch?: number;
  /** Called after each step with its state, and with how many steps of how many are done in all batches. */
  readonly onStep?: (step: SamplingStep, progress: SampleProgress) => void | Promise<void>;
}

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
  const { unet, guidance, labels, sampler = 'ddim', maxBatch = 16, onStep, start, height, width, ...rest } = options;
  if (!unet.isUNet()) throw new OptionError('sample needs a U-Net; this model is a classifier');
  if (labels.length === 0) throw new OptionError('sample needs at least one label');
  const batch = batchSize(labels.length, maxBatch);
  const size = { ...(height === undefined ? {} : { height }), ...(width === undefined ? {} : { width }) };
  const denoiser = new Denoiser(runtime, { unet, guidance, batch, ...size });
  const { c, h, w } = denoiser.shape;
  const picture = c * h * w;
  if (start && start.length !== labels.length * picture) {
    throw new OptionError(`start should hold ${labels.length} x ${picture} values, found ${start.length}`);
  }
  const samples = new Float32Array(labels.length * picture);
  const run = sampler === 'ddim' ? ddim : ddpm;
  const batches = Math.ceil(labels.length / batch);
  let steps = 0;
  let done = 0;
  try {
    for (let first = 0; first < labels.length; first += batch) {
      const taken = Math.min(batch, labels.length - first);
      const filled = Array.from({ length: batch }, (_, i) => labels[first + Math.min(i, taken - 1)]!);
      const from = start
        ? { start: fill(start.subarray(first * picture, (first + taken) * picture), batch * picture) }
        : {};
      let last: SamplingStep | null = null;
      for await (const step of run(denoiser, { ...rest, ...from, labels: filled, firstImage: first })) {
        await onStep?.(step, { done: ++done, total: batches * step.count, firstImage: first });
        last = step;
      }
      steps = last!.count;
      samples.set((await last!.sample()).subarray(0, taken * picture), first * picture);
    }
  } finally {
    denoiser.dispose();
  }
  return { samples, shape: [labels.length, c, h, w], steps, batches };
}

const fill = (values: Float32Array, length: number): Float32Array => {
  const filled = new Float32Array(length);
  filled.set(values);
  return filled;
};

/** The largest batch that divides the count, or if only small ones do, equal batches with a remainder filled up. */
export function batchSize(count: number, maxBatch: number): number {
  if (!Number.isInteger(maxBatch) || maxBatch < 1)
    throw new OptionError(`maxBatch should be at least 1, found ${maxBatch}`);
  const most = Math.min(count, maxBatch);
  for (let size = most; size > most / 2; size--) if (count % size === 0) return size;
  return Math.ceil(count / Math.ceil(count / most));
}
