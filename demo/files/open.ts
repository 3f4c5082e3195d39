/**
 * @file A dropped checkpoint: what it is, and whether it can be used beside what is in use. Needs no device.
 */
import { checkTensors, type ModelConfig, modelParameters, readConfig } from '../../src/checkpoints/config.ts';
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
  if (!checkpoint.metadata.has('config')) throw new CheckpointError(undescribed(checkpoint, file.name));
  const config = readConfig(checkpoint);
  checkTensors(checkpoint, modelParameters(config));
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
  return { name: file.name, size: file.bytes.length, checkpoint, config };
}

/** The checkpoint with the text of a .json as its description. */
function described({ tensors, metadata }: Checkpoint, { bytes }: NamedFile): Checkpoint {
  return { tensors, metadata: new Map([...metadata, ['config', new TextDecoder().decode(bytes)]]) };
}

/** What the names of the tensors tell about a file that does not describe itself, and what to do. */
export function undescribed({ tensors }: Checkpoint, name: string): string {
  const input = tensors.get('input_blocks.0.0.weight');
  if (!input) {
    const [first] = tensors.keys();
    return `it holds ${tensors.size} tensors, but not those of guided-diffusion: expected "input_blocks.0.0.weight", found names like "${first ?? 'none at all'}"`;
  }
  const unet = tensors.has('output_blocks.0.0.in_layers.0.weight');
  const [base, channels] = input.shape;
  const classes = tensors.get('label_emb.weight')?.shape[0];
  const looks = `a ${unet ? 'U-Net' : 'classifier'} of base width ${base} for ${channels} channels${classes ? ` and ${classes} classes` : ''}`;
  const json = name.replace(/\.\w+$/, '.json');
  return `it looks like ${looks}, but does not say how it was built (attention, heads, diffusion process). Drop it together with ${json}, which holds {"kind": "${unet ? 'unet' : 'classifier'}", "model": {…}, "diffusion": {…}} with guided-diffusion’s arguments, or convert it to a .safetensors that describes itself`;
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
