/**
 * @file From any checkpoint to a safetensors file that describes itself, with weights in another number format.
 *
 *   f32   everything as float32
 *   f16   matrices (weights of convolutions and linear layers, tables) as float16; norms and biases as float32
 *   int8  weights of convolutions and linear layers as 8-bit integers (see quantised.ts); everything else as float32
 *
 * One tensor is in memory at a time. Integers that are no weights stay as they are.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { type ModelConfig, writeConfig } from './config.ts';
import { type Dtype, halfOfFloat, numbersOf } from './dtypes.ts';
import { checkModel, configOf } from './fit.ts';
import {
  dequantise,
  foldScales,
  INT8_DESCRIPTION,
  isMatrix,
  QUANTIZATION,
  quantise,
  SCALE_SUFFIX,
} from './quantised.ts';
import type { OpenCheckpoint } from './read.ts';
import { safetensorsHeader } from './safetensors.ts';
import { show } from './show.ts';
import { type TensorInfo, tensorBytes } from './stored.ts';

export const NUMBER_FORMATS = ['f32', 'f16', 'int8'] as const;
export type NumberFormat = (typeof NUMBER_FORMATS)[number];

export interface ConvertOptions {
  readonly format: NumberFormat;
  /** What the file is, if it does not say so itself. */
  readonly config?: ModelConfig | null;
  /** Called after each tensor. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface Converted {
  /** Bytes written. */
  readonly bytes: number;
  readonly tensors: number;
  /** The configuration that was written into the file; null where it would have been a guess. */
  readonly config: ModelConfig | null;
  /** Why there is none. */
  readonly reason: string | null;
}

/** A tensor of the new file, and the one it is made of. */
interface Target extends TensorInfo {
  readonly from: string;
}

/**
 * Writes the new file front to back.
 *
 * @param write takes the next bytes; they are its own only until it is done
 * @throws CheckpointError for values that the format cannot hold; the signal's reason if it is aborted
 */
export async function convertCheckpoint(
  file: OpenCheckpoint,
  write: (bytes: Uint8Array) => Promise<void>,
  options: ConvertOptions,
): Promise<Converted> {
  const { format, onProgress, signal } = options;
  const tensors = foldScales(file);
  const { config, reason } = configToWrite(file, tensors, options.config ?? null);
  const metadata = Object.fromEntries([...file.metadata].filter(([key]) => key !== QUANTIZATION && key !== 'config'));
  if (config) metadata['config'] = (options.config ? undefined : file.metadata.get('config')) ?? writeConfig(config);
  if (format === 'int8') metadata[QUANTIZATION] = INT8_DESCRIPTION;

  // Tensors of a PyTorch file may share their bytes, so that a small file could ask for an endless one.
  const stored = [...tensors.values()].reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  if (stored > 4 * file.size + 2 ** 16) {
    throw new CheckpointError(
      `the tensors have ${stored} bytes, where the file has ${file.size}; they share what they hold`,
    );
  }
  const { header, order, size } = safetensorsHeader(targets(tensors, format), metadata);
  await write(header);

  let done = 0;
  for (const [name, target] of order) {
    signal?.throwIfAborted();
    const { from } = target;
    const source = tensors.get(from)!;
    const bytes = await file.read(from);
    const scale = source.scale === undefined ? null : numbersOf('F32', await file.read(source.scale));
    for (const piece of pieces(source, bytes)) {
      const part = scale?.subarray(piece.row, piece.row + piece.rows) ?? null;
      await write(encode(from, name, piece, source, part, target));
    }
    onProgress?.(++done, order.length);
  }
  return { bytes: header.byteLength + size, tensors: order.length, config, reason };
}

/** A guess is not written down as if the file had said it. */
function configToWrite(
  file: OpenCheckpoint,
  tensors: ReadonlyMap<string, TensorInfo>,
  given: ModelConfig | null,
): { config: ModelConfig | null; reason: string | null } {
  if (given) {
    checkModel(tensors, given);
    return { config: given, reason: null };
  }
  let found: ReturnType<typeof configOf>;
  try {
    found = configOf({ tensors, metadata: file.metadata });
  } catch (error) {
    if (!(error instanceof CheckpointError) || file.metadata.has('config')) throw error;
    return { config: null, reason: error.message };
  }
  checkModel(tensors, found.config);
  if (found.from === 'metadata' || found.released !== null) return { config: found.config, reason: null };
  const open = found.assumptions.map(({ argument }) => argument).join(', ');
  return { config: null, reason: `its tensors do not tell ${open}` };
}

const isNumber = (dtype: Dtype): boolean => ['F64', 'F32', 'F16', 'BF16'].includes(dtype);

function targets(tensors: ReadonlyMap<string, TensorInfo>, format: NumberFormat): Map<string, Target> {
  const made = new Map<string, Target>();
  for (const [name, { dtype, shape, scale }] of tensors) {
    if (!isNumber(dtype) && scale === undefined) made.set(name, { dtype, shape, from: name });
    else if (format === 'int8' && isMatrix(name, shape)) {
      if (tensors.has(name + SCALE_SUFFIX))
        throw new CheckpointError(`there is a tensor ${name + SCALE_SUFFIX} already`);
      made.set(name, { dtype: 'I8', shape, from: name });
      made.set(name + SCALE_SUFFIX, { dtype: 'F32', shape: [shape[0]!], from: name });
    } else made.set(name, { dtype: format === 'f16' && shape.length >= 2 ? 'F16' : 'F32', shape, from: name });
  }
  return made;
}

interface Piece {
  readonly bytes: Uint8Array;
  readonly row: number;
  readonly rows: number;
}

/** Elements that are converted at once. */
const PIECE = 2 ** 20;

/** Rows of the first axis, as many as make a piece; a tensor without axes is one row. */
function* pieces({ shape }: TensorInfo, bytes: Uint8Array): Generator<Piece> {
  const rows = shape[0] ?? 1;
  if (rows === 0 || bytes.byteLength === 0) return;
  const rowBytes = bytes.byteLength / rows;
  const elements = shape.slice(1).reduce((a, b) => a * b, 1);
  const step = Math.max(1, Math.floor(PIECE / Math.max(1, elements)));
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row);
    yield { bytes: bytes.subarray(row * rowBytes, (row + count) * rowBytes), row, rows: count };
  }
}

function encode(
  from: string,
  name: string,
  { bytes, rows }: Piece,
  source: TensorInfo,
  scale: ArrayLike<number> | null,
  target: Target,
): Uint8Array {
  const isScale = name !== from;
  // What is int8 already is copied: rounding it once more could only lose.
  if (target.dtype === source.dtype && !isScale && (scale === null || target.dtype === 'I8')) return bytes;
  if (isScale && scale !== null) return bytesOf(Float32Array.from(scale));
  const values = scale ? dequantise(bytes, scale) : numbersOf(source.dtype, bytes);
  if (isScale) return bytesOf(quantise(from, values, rows).scale);
  if (target.dtype === 'I8') return bytesOf(quantise(from, values, rows).q);
  if (target.dtype === 'F32') return bytesOf(Float32Array.from(values));
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    halves[i] = halfOfFloat(values[i]!);
    if ((halves[i]! & 0x7fff) === 0x7c00 && Number.isFinite(values[i]!)) {
      throw new CheckpointError(
        `${show(name)} holds ${values[i]}, beyond the largest float16 of 65504; convert to f32, or to int8`,
      );
    }
  }
  return bytesOf(halves);
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
