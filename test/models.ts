/** @file The shipped models for tests: as shapes alone, and on a device. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  classifierArguments,
  type ModelConfig,
  modelParameters,
  readConfig,
  unetArguments,
  writeConfig,
} from '../src/checkpoints/config.ts';
import {
  buildModel,
  type ClassifierModel,
  loadModel,
  type ShapedModel,
  type UNetModel,
} from '../src/checkpoints/model.ts';
import { type Checkpoint, readSafetensors, writeSafetensors } from '../src/checkpoints/safetensors.ts';
import { linearPart } from '../src/diffusion/ddim.ts';
import type { DiffusionArguments } from '../src/diffusion/gaussian_diffusion.ts';
import { classifierGuidance } from '../src/diffusion/guidance.ts';
import { buildStep } from '../src/diffusion/step.ts';
import type { Parameter } from '../src/layers/builder.ts';
import type { Runtime } from '../src/runtime/device.ts';
import type { Graph, Target } from '../src/runtime/graph.ts';
import type { Tensor } from '../src/runtime/resources.ts';
import { WeightShapes } from '../src/runtime/weights.ts';
import { checkpointOf, values } from './device.ts';

export const UNET_FILE = fileURLToPath(new URL('../weights/fashion-mnist-unet.safetensors', import.meta.url));
export const CLASSIFIER_FILE = fileURLToPath(
  new URL('../weights/fashion-mnist-classifier.safetensors', import.meta.url),
);
export const REFERENCE_FILE = fileURLToPath(new URL('golden/reference-ddim25.safetensors', import.meta.url));

export function shippedModels(runtime: Runtime): { unet: UNetModel; classifier: ClassifierModel } {
  const unet = loadModel(runtime, readFileSync(UNET_FILE));
  const classifier = loadModel(runtime, readFileSync(CLASSIFIER_FILE));
  if (!unet.isUNet() || !classifier.isClassifier())
    throw new Error('the shipped checkpoints are not what they should be');
  return { unet, classifier };
}

/** What the tiny models take: [N, 1, 8, 8]. */
export const TINY = { c: 1, h: 8, w: 8 };

/** Values of random weights by the parameter's fan-in, so that activations stay near 1. */
export function randomWeights(parameters: readonly Parameter[]): Checkpoint {
  return checkpointOf(
    Object.fromEntries(
      parameters.map(({ name, shape }, i) => {
        const count = shape.reduce((a, b) => a * b, 1);
        return [name, { shape, data: values(count, 100 + i, Math.sqrt((3 * shape[0]!) / count)) }];
      }),
    ),
  );
}

/**
 * A U-Net with a null class and learned variance, and a classifier, with random weights: for tests of arithmetic around
 * models, which no software adapter should have to wait for.
 */
export function tinyModels(runtime: Runtime): { unet: UNetModel; classifier: ClassifierModel } {
  const [unet, classifier] = TINY_CONFIGS.map((config) =>
    buildModel(runtime, randomWeights(modelParameters(config)), config),
  );
  if (!unet?.isUNet() || !classifier?.isClassifier()) throw new Error('the tiny models are not what they should be');
  return { unet, classifier };
}

const TINY_ARGUMENTS = {
  ...{ image_size: TINY.h, in_channels: TINY.c, model_channels: 32, num_res_blocks: 1, attention_resolutions: [2] },
  ...{ channel_mult: [1, 1], num_head_channels: 16, use_scale_shift_norm: true, resblock_updown: true },
};

const TINY_DIFFUSION: DiffusionArguments = {
  steps: 1000,
  noise_schedule: 'linear',
  var_type: 'learned_range',
  mean_type: 'epsilon',
  rescale_timesteps: false,
};

/** Of the U-Net and the classifier. */
export const TINY_CONFIGS: readonly [ModelConfig, ModelConfig] = [
  {
    kind: 'unet',
    model: unetArguments({ ...TINY_ARGUMENTS, out_channels: 2, num_classes: 11 }),
    diffusion: TINY_DIFFUSION,
    classes: null,
    nullClass: 10,
  },
  {
    kind: 'classifier',
    model: classifierArguments({ ...TINY_ARGUMENTS, out_channels: 10, pool: 'attention' }),
    diffusion: TINY_DIFFUSION,
    classes: null,
    nullClass: null,
  },
];

/** A model of random weights as a file that describes itself. */
export function randomFile(config: ModelConfig): Uint8Array {
  const { tensors } = randomWeights(modelParameters(config));
  const entries = [...tensors].map(([name, { shape, bytes }]) => [name, { dtype: 'F32', shape, data: bytes }] as const);
  return writeSafetensors(Object.fromEntries(entries), { config: writeConfig(config) });
}

/** A model without values: enough for a graph. */
function bare(file: string): never {
  const checkpoint = readSafetensors(readFileSync(file));
  const shapes = new Map([...checkpoint.tensors].map(([name, { shape }]) => [name, shape]));
  return { config: readConfig(checkpoint), weights: new WeightShapes(shapes) } as never;
}

/** The graph of one guided DDIM step and its outputs, without a device. */
export function guidedStep({
  batch,
  target = { adapter: 'cpu', slowCompiler: false },
}: {
  batch: number;
  target?: Target;
}): [Graph, Tensor[]] {
  const unet: ShapedModel<'unet'> = bare(UNET_FILE);
  const guidance = classifierGuidance(bare(CLASSIFIER_FILE));
  const { image_size, in_channels } = unet.config.model;
  const shape = { n: batch, c: in_channels, h: image_size, w: image_size };
  const features = { dynamicThreshold: false, inpaint: false, hook: false };
  const step = buildStep(target, { model: unet, guidance, shape, lowRes: null }, linearPart('none'), features);
  return [step.graphs[0]!, Object.values(step.outputs).filter((t) => t !== null)];
}
