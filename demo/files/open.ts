/**
 * @file A dropped checkpoint: what it is, and whether it can be used beside what is in use. Needs no device.
 */
import type { ModelConfig } from '../../src/checkpoints/config.ts';
import { checkModel, configOf } from '../../src/checkpoints/fit.ts';
import type { Assumption } from '../../src/checkpoints/infer.ts';
import { foldScales } from '../../src/checkpoints/quantised.ts';
import { readCheckpoint } from '../../src/checkpoints/read.ts';
import type { Checkpoint } from '../../src/checkpoints/safetensors.ts';
import { CheckpointError } from '../../src/index.ts';
import { describeMisfit } from './fit.ts';

export interface NamedFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

export type OpenedModel = Extract<ModelConfig, { kind: 'unet' | 'classifier' }>;

export interface Opened {
  readonly name: string;
  readonly size: number;
  readonly checkpoint: Checkpoint;
  readonly config: OpenedModel;
  readonly assumptions: readonly Assumption[];
}

interface InUse {
  readonly unet: Extract<ModelConfig, { kind: 'unet' }>;
}

const DESCRIPTION = /\.json$/i;

/**
 * Reads a checkpoint, or a checkpoint and a .json with its description.
 *
 * @throws CheckpointError saying what was found, what was expected and what to do
 */
export function openCheckpoint(files: readonly NamedFile[], inUse: InUse): Opened {
  const models = files.filter(({ name }) => !DESCRIPTION.test(name));
  const descriptions = files.filter(({ name }) => DESCRIPTION.test(name));
  const [file] = models;
  if (!file || models.length > 1 || descriptions.length > 1) {
    throw new CheckpointError(
      `expected one checkpoint, with or without one .json that describes it, found ${files.map(({ name }) => name).join(', ')}`,
    );
  }
  const read = readCheckpoint(file.bytes);
  const checkpoint = descriptions[0] ? described(read, descriptions[0]) : read;
  const tensors = foldScales(checkpoint);
  const { config, assumptions } = configOf({ tensors, metadata: checkpoint.metadata });
  checkModel(tensors, config);
  if (config.kind === 'super_resolution') {
    throw new CheckpointError(
      'it is a super-resolution U-Net, which enlarges images that it is given; this page makes images from noise alone. Use it with the command line',
    );
  }
  if (config.kind === 'classifier') {
    const misfit = describeMisfit(inUse.unet, config);
    if (misfit) throw new CheckpointError(`${misfit}. Open a U-Net that goes with it first`);
  } else {
    if (!config.diffusion) {
      throw new CheckpointError(
        'its description does not say which diffusion process it was trained with; add "diffusion" with steps and noise_schedule',
      );
    }
    const { in_channels } = config.model;
    if (in_channels !== 1 && in_channels !== 3) {
      throw new CheckpointError(`it makes images of ${in_channels} channels; this page shows 1 or 3`);
    }
  }
  return { name: file.name, size: file.bytes.length, checkpoint, config, assumptions };
}

/** The checkpoint with the text of a .json as its description. */
function described({ tensors, metadata }: Checkpoint, { bytes }: NamedFile): Checkpoint {
  return { tensors, metadata: new Map([...metadata, ['config', new TextDecoder().decode(bytes)]]) };
}

/** What was taken for granted, because nothing in the file tells it; "" if there was nothing. */
export function describeAssumptions(assumptions: readonly Assumption[]): string {
  if (assumptions.length === 0) return '';
  const list = assumptions.map(({ argument, assumed }) => `${argument} ${JSON.stringify(assumed)}`);
  return ` The file does not say ${list.join(', ')}: these are assumed. Drop it together with a .json that describes it to say otherwise.`;
}

/** A model in a line. */
export function describeModel(config: ModelConfig): string {
  const { model } = config;
  const size = `${model.image_size}×${model.image_size} ${model.in_channels === 1 ? 'grey' : 'colour'}`;
  const parts = [size, `base ${model.model_channels}`, `mult ${model.channel_mult.join(' ')}`];
  if (config.kind === 'classifier') {
    parts.unshift(`${config.model.out_channels} classes`);
    parts.push(`${config.model.pool} pool`);
  } else {
    const { num_classes, out_channels, in_channels } = config.model;
    parts.push(num_classes === null ? 'no classes' : `${num_classes - (config.nullClass === null ? 0 : 1)} classes`);
    if (config.nullClass !== null) parts.push('null class');
    if (out_channels === 2 * in_channels) parts.push('learned variance');
  }
  return parts.join(', ');
}
