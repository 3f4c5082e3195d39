/**
 * @file What the models of a guided step are run on, and what they should make of it: numbers of our own, or those that
 * another implementation wrote into a file beside its results.
 */
import { numbersOf } from '../src/checkpoints/dtypes.ts';
import type { UNetModel } from '../src/checkpoints/model.ts';
import type { Checkpoint } from '../src/checkpoints/safetensors.ts';
import {
  createDiffusion,
  type DiffusionArguments,
  type GaussianDiffusion,
  modelTimestep,
} from '../src/diffusion/gaussian_diffusion.ts';
import { gaussianNoise, STREAM } from '../src/diffusion/noise.ts';
import { CheckpointError } from '../src/runtime/errors.ts';

export interface StepInputs {
  /** x_t, [N, C, H, W]. */
  readonly x: Float32Array;
  /** One for each image. */
  readonly labels: readonly number[];
  readonly process: GaussianDiffusion;
  /** Timestep of the process. */
  readonly t: number;
  /** Guidance scale. */
  readonly scale: number;
}

/** The U-Net's output, the classifier's gradient without a scale, x_{t-1} of DDIM without noise; all NCHW. */
export const RESULT_NAMES = ['output', 'gradient', 'sample'] as const;
export type ResultName = (typeof RESULT_NAMES)[number];

export interface ExpectedStep {
  readonly inputs: StepInputs;
  readonly results: Readonly<Record<ResultName, Float32Array>>;
}

/** For checkpoints that do not tell: how long a step takes does not depend on it. */
const USUAL: DiffusionArguments = {
  steps: 1000,
  noise_schedule: 'linear',
  var_type: 'fixed_large',
  mean_type: 'epsilon',
  rescale_timesteps: false,
};

/** The middle of the process, with noise as x_t: on zeros a GPU draws less power, and may run faster than it ever will. */
export function someInputs({ config }: Pick<UNetModel, 'config'>, classes: number, batch: number): StepInputs {
  const { image_size: size, in_channels: c, num_classes } = config.model;
  const process = createDiffusion(config.diffusion ?? USUAL);
  const address = { seed: 1, firstImage: 0, step: 0, stream: STREAM.start };
  return {
    x: gaussianNoise(address, { n: batch, c, h: size, w: size }),
    labels: Array.from({ length: batch }, (_, i) => i % Math.min(classes, num_classes ?? classes)),
    process,
    t: process.length >> 1,
    scale: 1,
  };
}

/**
 * What a file expects: x_t, timesteps, labels and the results, with the metadata "step", a JSON string of the respacing,
 * the timestep t of the respaced process and the guidance scale.
 *
 * @throws CheckpointError if something is missing or does not fit the U-Net
 */
export function expectedStep({ tensors, metadata }: Checkpoint, { config }: Pick<UNetModel, 'config'>): ExpectedStep {
  const read = (name: string) => {
    const tensor = tensors.get(name);
    if (!tensor) throw new CheckpointError(`expected a tensor ${name}, found ${[...tensors.keys()].join(', ')}`);
    return { shape: tensor.shape, values: numbersOf(tensor.dtype, tensor.bytes) };
  };
  const { respacing, t, scale } = stepOf(metadata.get('step'));
  const process = createDiffusion(config.diffusion ?? USUAL, respacing);
  if (!(Number.isInteger(t) && t >= 0 && t < process.length)) {
    throw new CheckpointError(`step.t should be from 0 to ${process.length - 1}, found ${t}`);
  }
  const x = read('x_t');
  const { image_size: size, in_channels: c, out_channels: out } = config.model;
  const shape = (channels: number) => [x.shape[0], channels, size, size].join();
  const sized = (name: string, { shape: found, values }: ReturnType<typeof read>, expected: string) => {
    if (found.join() !== expected) {
      throw new CheckpointError(`${name} should have shape [${expected}], found [${found.join()}]`);
    }
    return Float32Array.from(values);
  };
  const told = read('timesteps').values.find((value) => Math.abs(value - modelTimestep(process, t)) > 1e-3);
  if (told !== undefined) {
    throw new CheckpointError(`the models should be told the timestep ${modelTimestep(process, t)}, found ${told}`);
  }
  return {
    inputs: { x: sized('x_t', x, shape(c)), labels: [...read('labels').values], process, t, scale },
    results: {
      output: sized('output', read('output'), shape(out)),
      gradient: sized('gradient', read('gradient'), shape(c)),
      sample: sized('sample', read('sample'), shape(c)),
    },
  };
}

function stepOf(text: string | undefined): { respacing: string; t: number; scale: number } {
  const expected = 'a JSON string "step" in the metadata, with respacing, t and scale';
  if (text === undefined) throw new CheckpointError(`expected ${expected}`);
  const { respacing, t, scale } = Object(JSON.parse(text)) as Record<string, unknown>;
  if (typeof respacing === 'string' && typeof t === 'number' && typeof scale === 'number') {
    return { respacing, t, scale };
  }
  throw new CheckpointError(`expected ${expected}, found ${text}`);
}
