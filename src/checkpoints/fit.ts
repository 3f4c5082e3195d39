/**
 * @file Holds a model against a file, and says which flag would explain a difference.
 */
import { CheckpointError } from '../runtime/errors.ts';
import {
  checkTensors,
  describeMismatch,
  type Mismatch,
  type ModelArguments,
  type ModelConfig,
  mismatches,
  modelParameters,
  readConfig,
} from './config.ts';
import { wordsFor } from './flag_words.ts';
import type { Flags } from './flags.ts';
import { type Inference, inferConfig } from './infer.ts';
import type { TensorInfo } from './stored.ts';

type Tensors = ReadonlyMap<string, TensorInfo>;

/** @throws CheckpointError naming tensors, expected and found shapes, and the flags that would explain them */
export function checkModel(tensors: Tensors, config: ModelArguments): void {
  const parameters = modelParameters(config);
  const wrong = mismatches(tensors, parameters);
  checkTensors({ tensors }, parameters, wrong.length > 0 ? explanation(tensors, config, wrong) : undefined);
}

/**
 * What the file is instead is inferred from its shapes. An argument explains a mismatch if the mismatch vanishes once
 * the argument alone has the inferred value.
 */
function explanation(tensors: Tensors, config: ModelArguments, wrong: readonly Mismatch[]): (m: Mismatch) => string {
  let inferred: ModelConfig;
  try {
    inferred = inferConfig(tensors).config;
  } catch {
    return () => '';
  }
  if (inferred.kind !== config.kind) {
    const kind = inferred.kind.replace('_', '-');
    return (mismatch) => (mismatch.name === wrong[0]!.name ? ` (the file looks like a ${kind} model)` : '');
  }
  const [ours, theirs] = [config.model, inferred.model] as unknown as Record<string, unknown>[];
  const visible = Object.keys(theirs!).filter((name) => JSON.stringify(ours![name]) !== JSON.stringify(theirs![name]));
  const cures = visible.flatMap((argument) => {
    const changed = { ...config, model: { ...ours, [argument]: theirs![argument] } } as unknown as ModelArguments;
    const words = wordsFor(inferred, argument);
    try {
      const left = mismatches(tensors, modelParameters(changed));
      const same =
        left.length === wrong.length && left.every((m, i) => describeMismatch(m) === describeMismatch(wrong[i]!));
      return same ? [] : [{ words, left: new Set(left.map(({ name }) => name)) }];
    } catch {
      return []; // this argument makes no sense without the others
    }
  });
  const told = new Set<string>();
  const tell = (words: string) => {
    if (told.has(words)) return '';
    told.add(words);
    return ` (${words} would explain it)`;
  };
  return ({ name }) => {
    const alone = cures.filter(({ left }) => !left.has(name));
    if (alone.length > 0) return tell([...new Set(alone.map(({ words }) => words))].join(' or '));
    const together = [...new Set(cures.map(({ words }) => words))];
    return together.length > 1 ? tell(`${together.join(' and ')} together`) : '';
  };
}

/**
 * The configuration of a file: what it says of itself, else what its tensors tell.
 *
 * @throws CheckpointError if neither leads to a model
 */
export function configOf(file: {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: Tensors;
}): Inference & {
  readonly from: 'metadata' | 'shapes';
} {
  if (file.metadata.has('config')) {
    return { config: readConfig(file), assumptions: [], released: null, from: 'metadata' };
  }
  try {
    return { ...inferConfig(file.tensors), from: 'shapes' };
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    throw new CheckpointError(`this file does not describe its model, and ${error.message}`, { cause: error });
  }
}

/** Of the models that a line of flags may speak of, the one that a file with these tensors is. */
export function configFromFlags(flags: Flags, tensors: Tensors): ModelConfig {
  if (flags.kinds.includes('super_resolution')) return flags.config('super_resolution');
  for (const name of tensors.keys()) if (name.startsWith('output_blocks.')) return flags.config('unet');
  return flags.config('classifier');
}
