/**
 * @file A model: what a checkpoint describes, with its parameters on a device.
 */
import type { Runtime } from '../runtime/device.ts';
import {
  type TensorSource,
  tensorsInMemory,
  type WeightOptions,
  type WeightShapes,
  Weights,
} from '../runtime/weights.ts';
import type { ModelConfig } from './config.ts';
import { checkModel, configOf } from './fit.ts';
import type { Assumption } from './infer.ts';
import { foldScales } from './quantised.ts';
import { readCheckpoint } from './read.ts';
import type { Checkpoint } from './safetensors.ts';

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
  /** What the configuration has that nothing in the file tells: worth showing. */
  readonly assumptions: readonly Assumption[];

  constructor(config: ModelConfig, weights: Weights, assumptions: readonly Assumption[] = []) {
    this.config = config;
    this.weights = weights;
    this.assumptions = assumptions;
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

export interface LoadOptions extends WeightOptions {
  /** What the file is, for one that does not say so itself: from `parseFlags`, for example. */
  readonly config?: ModelConfig | undefined;
  /** In a PyTorch file: the key under which the state dict lies. Found by itself under the usual names. */
  readonly key?: string | undefined;
}

/**
 * Reads a checkpoint, safetensors or PyTorch. What it is, it says itself, or its shapes tell (see `Model.assumptions`), or
 * the caller says. The file's bytes are kept, not copied: parameters go to the device when a plan first needs them.
 *
 * @throws CheckpointError if the file is damaged, or does not hold the tensors of a model
 */
export function loadModel(runtime: Runtime, file: ArrayBuffer | Uint8Array, options: LoadOptions = {}): Model {
  return buildModel(runtime, readCheckpoint(file, options), options.config, options);
}

/** A model from tensors in memory. @param config what they are, if the checkpoint does not tell */
export function buildModel(
  runtime: Runtime,
  checkpoint: Checkpoint,
  config?: ModelConfig,
  options: WeightOptions = {},
): Model {
  const file = { ...tensorsInMemory(checkpoint.tensors), metadata: checkpoint.metadata };
  return openModel(runtime, file, config, options);
}

/**
 * A model from a checkpoint whose values are read when they are needed, and once: a file on disk, or a stream.
 *
 * @param file it belongs to the model from now on, and is closed with it
 */
export function openModel(
  runtime: Runtime,
  file: TensorSource & { readonly metadata: ReadonlyMap<string, string> },
  config?: ModelConfig,
  options: WeightOptions = {},
): Model {
  const tensors = foldScales(file);
  const found = config ? { config, assumptions: [] } : configOf({ tensors, metadata: file.metadata });
  checkModel(tensors, found.config);
  const weights = new Weights(runtime, { ...file, tensors }, options);
  return new Model(found.config, weights, found.assumptions);
}
