/**
 * @file The models that `bench` times: the shipped ones, those of given files, or such of random weights.
 */
import type { ModelPair } from '../../bench/models.ts';
import { randomModel } from '../../bench/random_model.ts';
import { type ExpectedStep, expectedStep } from '../../bench/step_inputs.ts';
import { parseFlags } from '../checkpoints/flags.ts';
import type { Model } from '../checkpoints/model.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { readModel } from './checkpoint_files.ts';
import { naming, readTensors, shippedWeights } from './files.ts';

export interface NamedModels {
  readonly model: string | undefined;
  readonly classifier: string | undefined;
  /** What the files hold, or without files what is made of random weights. */
  readonly flags: string | undefined;
}

/** Whether the models are not the shipped ones. @throws OptionError if only one of a pair is named */
export function areOwn({ model, classifier, flags }: NamedModels): boolean {
  if ((model === undefined) !== (classifier === undefined)) {
    throw new OptionError('a guided step takes two models: give --model and --classifier, or neither');
  }
  return model !== undefined || flags !== undefined;
}

/** @throws OptionError or CheckpointError if a file is not what it should be */
export async function openPair(runtime: Runtime, { model, classifier, flags }: NamedModels): Promise<ModelPair> {
  if (model === undefined && flags !== undefined) {
    const given = parseFlags(flags);
    return pairOf(randomModel(runtime, given.config('unet')), randomModel(runtime, given.config('classifier')));
  }
  return pairOf(
    await readModel(runtime, model ?? shippedWeights('fashion-mnist-unet.safetensors'), flags),
    await readModel(runtime, classifier ?? shippedWeights('fashion-mnist-classifier.safetensors'), flags),
  );
}

function pairOf(unet: Model, classifier: Model): ModelPair {
  if (!unet.isUNet()) throw new OptionError(`--model should be a U-Net, found a model of kind ${unet.config.kind}`);
  if (!classifier.isClassifier()) {
    throw new OptionError(`--classifier should be a classifier, found a model of kind ${classifier.config.kind}`);
  }
  return { unet, classifier };
}

/** What a file says that a step should give. @throws OptionError if it is of another batch */
export function readExpected(path: string, { unet }: ModelPair, batch: number): ExpectedStep {
  const file = readTensors(path, 'expected values');
  const expected = naming(path, () => expectedStep(file, unet));
  const { length } = expected.inputs.labels;
  if (length !== batch) throw new OptionError(`${path} holds ${length} images: give --batch ${length}`);
  return expected;
}
