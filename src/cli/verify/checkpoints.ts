/**
 * @file Golden kinds `checkpoint` and `checkpoint_bad`: files to read, and files to refuse.
 */
import { checkTensors, classifierArguments, modelParameters } from '../../checkpoints/config.ts';
import { readCheckpoint } from '../../checkpoints/read.ts';
import { toNumbers } from '../../checkpoints/safetensors.ts';
import { CheckpointError } from '../../runtime/errors.ts';
import { readInput } from '../files.ts';
import type { GoldenCase, GoldenFolder } from './manifest.ts';

/** Every tensor under its name, its values equal to the reference's once widened. @returns a complaint, or null */
export function checkpointCase(golden: GoldenCase, folder: GoldenFolder): string | null {
  const expected = folder.checkpoint(golden.reference!).tensors;
  let found: ReturnType<typeof readCheckpoint>['tensors'];
  try {
    found = readCheckpoint(readInput(folder.path(golden.file!), 'checkpoint')).tensors;
  } catch (error) {
    if (error instanceof CheckpointError && golden.may_refuse) return null;
    throw error;
  }
  const names = [...found.keys()].sort().join();
  if (names !== [...expected.keys()].sort().join())
    return `expected ${[...expected.keys()]}, found ${[...found.keys()]}`;
  for (const [name, tensor] of expected) {
    const ours = found.get(name)!;
    if (ours.shape.join() !== tensor.shape.join())
      return `${name} should have shape [${tensor.shape}], found [${ours.shape}]`;
    const [a, b] = [toNumbers(ours), toNumbers(tensor)];
    const wrong = a.findIndex((value, i) => !Object.is(value, b[i]));
    if (wrong >= 0) return `${name}[${wrong}] should be ${b[wrong]}, found ${a[wrong]}`;
  }
  return null;
}

/** @returns a complaint, or null if the file, or the model made of it, is refused with a typed error */
export function badCheckpointCase(golden: GoldenCase, folder: GoldenFolder): string | null {
  const sound = golden.expect?.startsWith('the file itself is sound') ?? false;
  try {
    const checkpoint = readCheckpoint(readInput(folder.path(golden.file!), 'checkpoint'));
    const model =
      /for model (\w+)/.exec(golden.note ?? '')?.[1] ??
      Object.keys(folder.models).find((id) => folder.models[id]!.class_name === 'EncoderUNetModel');
    if (model === undefined) return 'the file was read, and there is no model to try it with';
    const { config } = folder.models[model]!;
    checkTensors(checkpoint, modelParameters({ kind: 'classifier', model: classifierArguments(config) }));
    return 'expected this file to be refused';
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    const names = /(\S+) is missing and (\S+) is unexpected|: (\S+) has the wrong shape/.exec(golden.note ?? '');
    const missing = sound && names ? names.slice(1).filter((name) => name && !error.message.includes(name)) : [];
    return missing.length > 0 ? `the refusal should name ${missing.join(' and ')}: ${error.message}` : null;
  }
}
