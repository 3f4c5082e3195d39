/** @file The shipped models for tests: as shapes alone, and on a device. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readConfig } from '../src/checkpoints/config.ts';
import { type ClassifierModel, loadModel, type ShapedModel, type UNetModel } from '../src/checkpoints/model.ts';
import { readSafetensors } from '../src/checkpoints/safetensors.ts';
import { linearPart } from '../src/diffusion/ddim.ts';
import { classifierGuidance } from '../src/diffusion/guidance.ts';
import { buildStep } from '../src/diffusion/step.ts';
import type { Runtime } from '../src/runtime/device.ts';
import type { Graph, Target } from '../src/runtime/graph.ts';
import type { Tensor } from '../src/runtime/resources.ts';
import { WeightShapes } from '../src/runtime/weights.ts';

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
