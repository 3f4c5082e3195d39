/**
 * @file What a checkpoint is, as data: for `inspect`, for a page that shows what was dropped on it, for tests.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { storedFormat, WeightShapes } from '../runtime/weights.ts';
import type { ModelConfig } from './config.ts';
import { type Demand, demandOf } from './demand.ts';
import { checkModel, configOf } from './fit.ts';
import type { Assumption } from './infer.ts';
import { foldScales } from './quantised.ts';
import type { OpenCheckpoint } from './read.ts';
import { elementCount, tensorBytes } from './stored.ts';

export interface DescribedTensor {
  readonly name: string;
  /** As stored: "F32", "F16", …, "I8" for quantised weights. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

export interface Description {
  /** "safetensors", "safetensors in 3 files", "PyTorch zip", "PyTorch legacy", … */
  readonly format: string;
  /** Of the file, or of all files. */
  readonly bytes: number;
  /** All tensors in the order in which they lie in the file. */
  readonly tensors: readonly DescribedTensor[];
  /** Numbers in all tensors together. */
  readonly parameters: number;
  /** Tensors and bytes by number format, the largest share first. */
  readonly storage: readonly { readonly dtype: string; readonly tensors: number; readonly bytes: number }[];
  /** Metadata of the file, without the configuration. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The model, or null where the file is none that this engine knows; then `problem` says why. */
  readonly model: {
    readonly config: ModelConfig;
    /** Where the configuration was found. */
    readonly from: 'metadata' | 'shapes' | 'given';
    /** What was assumed, because nothing tells it. */
    readonly assumptions: readonly Assumption[];
    /** What one pass with one image at the model's own size asks of a GPU, weights as they are stored. */
    readonly demand: Omit<Demand, 'packed'>;
    /** What is needed beside this file to make pictures, in sentences. */
    readonly needs: readonly string[];
  } | null;
  /** Why the file cannot be run; null if it can. */
  readonly problem: string | null;
}

/**
 * @param config what the file is said to be, by flags; otherwise it is read from its metadata or inferred
 * @returns never throws for a file that is no known model: that is said in `problem`
 */
export function describeCheckpoint(file: OpenCheckpoint, config: ModelConfig | null = null): Description {
  const tensors = [...file.tensors].map(([name, tensor]) => ({
    name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    bytes: tensorBytes(tensor),
  }));
  const byType = new Map<string, { dtype: string; tensors: number; bytes: number }>();
  for (const { dtype, bytes } of tensors) {
    const entry = byType.get(dtype) ?? { dtype, tensors: 0, bytes: 0 };
    entry.tensors++;
    entry.bytes += bytes;
    byType.set(dtype, entry);
  }
  const { model, problem } = describeModel(file, config);
  return {
    format: file.format,
    bytes: file.size,
    tensors,
    parameters: tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    storage: [...byType.values()].sort((a, b) => b.bytes - a.bytes),
    metadata: Object.fromEntries([...file.metadata].filter(([key]) => key !== 'config')),
    model,
    problem,
  };
}

function describeModel(file: OpenCheckpoint, given: ModelConfig | null): Pick<Description, 'model' | 'problem'> {
  try {
    const tensors = foldScales(file);
    const told = { tensors, metadata: file.metadata };
    const found = given ? { config: given, assumptions: [], from: 'given' as const } : configOf(told);
    checkModel(tensors, found.config);
    const shapes = new Map([...tensors].map(([name, { shape }]) => [name, shape]));
    const weights = new WeightShapes(shapes, (names) => storedFormat(tensors, names));
    const { packed: _packed, ...demand } = demandOf(found.config, { weights });
    return { model: { ...found, demand, needs: needsOf(found.config) }, problem: null };
  } catch (error) {
    if (error instanceof CheckpointError) return { model: null, problem: error.message };
    throw error;
  }
}

/** Sentences about what else a picture takes. */
function needsOf({ kind, model, classes, nullClass }: ModelConfig): string[] {
  const size = `${model.image_size} x ${model.image_size}`;
  if (kind === 'classifier') {
    return [`a U-Net for pictures of ${size} with ${model.in_channels} channels, which this classifier can guide`];
  }
  const needs: string[] = [];
  if (kind === 'super_resolution') needs.push('smaller pictures to enlarge');
  if (model.num_classes !== null) {
    const names = classes ? '' : ', whose names the file does not tell';
    needs.push(`a class for each picture, 0 to ${model.num_classes - 1}${names}`);
    if (nullClass === null) needs.push('a null class, if it is to be guided without a classifier');
  }
  if (model.num_classes === null) needs.push(`a classifier for pictures of ${size}, if classes are to be chosen`);
  return needs;
}
