/**
 * @file Weights stored as 8-bit integers, each slice along the first axis (an output channel) with a factor of its own:
 *
 *   w[o, …] = q[o, …] * scale[o]          q from -127 to 127, symmetric
 *
 * In a safetensors file: q as I8 under the weight's own name, scale as F32 [O] under the name with `.scale` behind it, and
 * in the metadata `quantization`, a JSON string that says so:
 *
 *   { "format": "int8", "scheme": "symmetric", "axis": 0, "scale": "<name>.scale" }
 */
import { CheckpointError } from '../runtime/errors.ts';
import { show } from './show.ts';
import type { TensorInfo } from './stored.ts';

export const SCALE_SUFFIX = '.scale';

/** What the metadata of a file with int8 weights say under this key. */
export const QUANTIZATION = 'quantization';
export const INT8_DESCRIPTION = JSON.stringify({
  format: 'int8',
  scheme: 'symmetric',
  axis: 0,
  scale: `<name>${SCALE_SUFFIX}`,
});

/** Whether a tensor is a convolution's or a linear layer's weight: what int8 is for. Tables of classes are looked up. */
export const isMatrix = (name: string, shape: readonly number[]): boolean =>
  shape.length >= 2 && name.endsWith('.weight') && name !== 'label_emb.weight';

/**
 * Joins int8 weights with their scales: the weights get the name of their scale, the scales are tensors no more.
 *
 * @returns the same map for a file without int8 weights
 * @throws CheckpointError if the file describes another scheme, or a scale is missing or of the wrong length
 */
export function foldScales<T extends TensorInfo>(file: {
  readonly tensors: ReadonlyMap<string, T>;
  readonly metadata: ReadonlyMap<string, string>;
}): ReadonlyMap<string, T> {
  const description = file.metadata.get(QUANTIZATION);
  if (description === undefined) return file.tensors;
  checkDescription(description);
  const folded = new Map<string, T>();
  const scales = new Set<string>();
  for (const [name, tensor] of file.tensors) {
    if (tensor.dtype !== 'I8') {
      folded.set(name, tensor);
      continue;
    }
    const scale = name + SCALE_SUFFIX;
    const found = file.tensors.get(scale);
    const length = tensor.shape[0] ?? 0;
    if (found?.dtype !== 'F32' || found.shape.join() !== String(length)) {
      const what = found ? `${found.dtype} [${found.shape.join(', ')}]` : 'nothing';
      throw new CheckpointError(`${show(name)} is stored as int8; ${scale} should be F32 [${length}], found ${what}`);
    }
    folded.set(name, { ...tensor, scale });
    scales.add(scale);
  }
  for (const scale of scales) folded.delete(scale);
  return folded;
}

function checkDescription(text: string): void {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    json = text;
  }
  const { format, scheme, axis, scale } = Object(json) as Record<string, unknown>;
  if (format !== 'int8' || scheme !== 'symmetric' || axis !== 0 || scale !== `<name>${SCALE_SUFFIX}`) {
    throw new CheckpointError(`the file describes its quantization as ${show(text)}; known is ${INT8_DESCRIPTION}`);
  }
}

/** The largest magnitude of an int8 weight: -128 is left out, so that the scheme is symmetric. */
const LARGEST = 127;

/**
 * Rounds each row of a matrix to 8-bit integers.
 *
 * @param values [rows, …] row-major
 * @returns `q` of the same order, and `scale` [rows]; a row of zeros has scale 0
 * @throws CheckpointError if a value is not finite: it would spoil the whole row
 */
export function quantise(name: string, values: Float64Array | Float32Array, rows: number) {
  const columns = rows === 0 ? 0 : values.length / rows;
  const q = new Int8Array(values.length);
  const scale = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let largest = 0;
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      const magnitude = Math.abs(values[i]!);
      if (!(magnitude <= Number.MAX_VALUE)) throw new CheckpointError(`${show(name)} holds ${values[i]}; int8 cannot`);
      if (magnitude > largest) largest = magnitude;
    }
    scale[row] = largest / LARGEST;
    // The factor as it is stored, so that its own rounding costs nothing.
    const inverse = scale[row]! > 0 ? 1 / scale[row]! : 0;
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      q[i] = Math.max(-LARGEST, Math.min(LARGEST, Math.round(values[i]! * inverse)));
    }
  }
  return { q, scale };
}

/** The numbers of an int8 tensor. */
export function dequantise(q: Uint8Array, scale: ArrayLike<number>): Float32Array {
  const values = new Float32Array(q.length);
  const integers = new Int8Array(q.buffer, q.byteOffset, q.length);
  const columns = q.length / Math.max(1, scale.length);
  for (let i = 0; i < q.length; i++) values[i] = integers[i]! * scale[Math.floor(i / columns)]!;
  return values;
}
