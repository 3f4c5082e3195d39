/**
 * @file What `likelihood` and `invert` share: a model, and pictures that are given rather than made.
 */

import { Denoiser } from '../diffusion/denoiser.ts';
import { noGuidance } from '../diffusion/guidance.ts';
import { batchSize } from '../diffusion/sample.ts';
import { OptionError } from '../runtime/errors.ts';
import { openAdapter } from './adapter.ts';
import { ADAPTER_OPTION, numberOption, type OptionTable } from './arguments.ts';
import { readModel } from './checkpoint_files.ts';
import { classNames, readLabels } from './classes.ts';
import { shippedWeights } from './files.ts';
import { readPictures } from './pictures.ts';

export const PICTURE_OPTIONS = {
  model: { type: 'string', value: 'FILE', help: 'U-Net checkpoint (the shipped one)' },
  flags: { type: 'string', anyText: true, value: 'FLAGS', help: 'what --model is, where it does not say' },
  conditional: { type: 'boolean', help: 'the U-Net sees the classes: those of --class, or else of the file' },
  class: {
    type: 'string',
    multiple: true,
    value: 'NAME|INDEX|null',
    help: 'classes of the pictures, in turn; commas allowed (the labels in the file)',
  },
  steps: { type: 'string', value: 'N', help: 'timesteps, evenly taken from those of the model' },
  adapter: ADAPTER_OPTION,
  json: { type: 'boolean', help: 'prints one JSON object' },
} as const satisfies OptionTable;

interface PictureOptions {
  readonly model: string | undefined;
  readonly flags: string | undefined;
  readonly conditional: boolean;
  readonly class: string[] | undefined;
  readonly steps: string | undefined;
  readonly adapter: string;
}

/** Pictures of one batch. */
export interface PictureBatch {
  readonly first: number;
  /** How many of the batch count; the rest fills it up. */
  readonly taken: number;
  readonly pictures: Float32Array;
  readonly labels: readonly (number | null)[];
}

/** At most so many pictures at once. */
const MAX_BATCH = 16;

/** Opens a device, the model and the pictures. @throws OptionError, CheckpointError, DeviceError */
export async function openPictures(positionals: readonly string[], command: string, options: PictureOptions) {
  const [path, ...more] = positionals;
  if (path === undefined || more.length > 0) {
    throw new OptionError(`${command} takes one file of pictures, PNG or safetensors, found ${positionals.length}`);
  }
  if (options.class !== undefined && !options.conditional) throw new OptionError('--class needs --conditional');
  const steps = options.steps === undefined ? null : numberOption('steps', options.steps, { min: 1, whole: true });
  const { found, runtime } = await openAdapter(options.adapter);
  const modelPath = options.model ?? shippedWeights('fashion-mnist-unet.safetensors');
  const unet = await readModel(runtime, modelPath, options.model === undefined ? undefined : options.flags);
  const guidance = noGuidance({ conditional: options.conditional });
  const names = classNames(unet, guidance);
  if (!unet.isUNet()) throw new OptionError('--model needs a U-Net');
  const { in_channels: channels, image_size: size } = unet.config.model;
  const given = readPictures(path, { channels, height: size, width: size });
  const count = given.count;
  const fromFile = given.labels?.map((label) => (label >= 0 && label < names.length ? label : null)) ?? null;
  const known = options.class === undefined ? fromFile : readLabels(options.class, names, count);
  if (options.conditional && !known) throw new OptionError(`${path} holds no labels; name the classes with --class`);
  const labels = options.conditional ? known! : Array<null>(count).fill(null);

  const batch = batchSize(count, MAX_BATCH);
  const denoiser = new Denoiser(runtime, { unet, guidance, batch });
  const picture = channels * size * size;
  const batches = Array.from({ length: Math.ceil(count / batch) }, (_, i): PictureBatch => {
    const first = i * batch;
    const taken = Math.min(batch, count - first);
    const pictures = new Float32Array(batch * picture);
    pictures.set(given.data.subarray(first * picture, (first + taken) * picture));
    const own = Array.from({ length: batch }, (_, k) => labels[first + Math.min(k, taken - 1)]!);
    return { first, taken, pictures, labels: own };
  });
  return {
    adapter: found.adapter,
    denoiser,
    steps,
    count,
    labels,
    batches,
    shape: [count, channels, size, size] as const,
    picture,
    close: () => {
      denoiser.dispose();
      runtime.dispose();
      found.device.destroy();
    },
  };
}
