/**
 * @file A model: what a checkpoint describes, with its parameters on a device.
 */
import type { Runtime } from '../runtime/device.ts';
import { type WeightShapes, Weights } from '../runtime/weights.ts';
import { checkTensors, type ModelConfig, modelParameters, readConfig } from './config.ts';
import { type Checkpoint, readSafetensors } from './safetensors.ts';

/** What a graph needs of a model: its configuration, and the names and shapes of its parameters. */
export interface ShapedModel<Kind extends ModelConfig['kind']> {
  readonly config: Extract<ModelConfig, { kind: Kind }>;
  readonly weights: WeightShapes;
}

export type UNetModel = Model & { readonly config: Extract<ModelConfig, { kind: 'unet' }> };
export type SuperResolutionModel = Model & { readonly config: Extract<ModelConfig, { kind: 'super_resolution' }> };
export type ClassifierModel = Model & { readonly config: Extract<ModelConfig, { kind: 'classifier' }> };

export class Model {
  readonly config: ModelConfig;
  readonly weights: Weights;

  constructor(config: ModelConfig, weights: Weights) {
    this.config = config;
    this.weights = weights;
  }

  isUNet(): this is UNetModel {
    return this.config.kind === 'unet';
  }

  isSuperResolution(): this is SuperResolutionModel {
    return this.config.kind === 'super_resolution';
  }

  isClassifier(): this is ClassifierModel {
    return this.config.kind === 'classifier';
  }

  /** Frees the parameters on the device. Plans that use them must not run any more. */
  dispose(): void {
    this.weights.dispose();
  }
}

/**
 * Reads a safetensors checkpoint that describes itself. The file's bytes are kept, not copied: parameters go to the
 * device when a plan first needs them.
 *
 * @throws CheckpointError if the file is damaged, does not describe itself, or does not hold the tensors it should
 */
export function loadModel(runtime: Runtime, file: ArrayBuffer | Uint8Array): Model {
  const checkpoint = readSafetensors(file);
  return buildModel(runtime, checkpoint, readConfig(checkpoint));
}

/** A model from tensors that come without a description. */
export function buildModel(runtime: Runtime, checkpoint: Checkpoint, config: ModelConfig): Model {
  checkTensors(checkpoint, modelParameters(config));
  return new Model(config, new Weights(runtime, checkpoint.tensors));
}
