/**
 * @file The safetensors format, read with suspicion and written with care.
 *
 * A file is: an 8-byte little-endian header length, a JSON header { name: { dtype, shape, data_offsets } }, the data. The
 * reader holds the file to what the format promises: offsets in range and in agreement with type and shape, no overlap,
 * no hole, no byte left over, no name twice. It never copies a tensor.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { DTYPE_BYTES, type Dtype, numbersOf } from './dtypes.ts';
import { show } from './show.ts';
import { type Parser, parseBytes } from './source.ts';
import { type CheckpointIndex, readStored, type StoredTensor, type TensorInfo, tensorBytes } from './stored.ts';

export interface CheckpointTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** The stored values, little-endian, row-major: a view into the file. */
  readonly bytes: Uint8Array;
}

export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The reference implementation's own bound on the header. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * @param file the whole file
 * @throws CheckpointError naming what is wrong, and where
 */
export function readSafetensors(file: ArrayBuffer | Uint8Array): Checkpoint {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return readIndexed(bytes, parseBytes(bytes, indexSafetensors(bytes.byteLength)));
}

/** All tensors of a file in memory: views of it wherever they can be. */
export function readIndexed(bytes: Uint8Array, { tensors, metadata }: CheckpointIndex): Checkpoint {
  const size = bytes.byteLength;
  const read = (tensor: StoredTensor): CheckpointTensor => ({
    dtype: tensor.dtype,
    shape: tensor.shape,
    bytes: parseBytes(bytes, readStored(size, tensor)),
  });
  return { tensors: new Map([...tensors].map(([name, tensor]) => [name, read(tensor)])), metadata };
}

/** Reads and checks the header alone. */
export function* indexSafetensors(size: number): Parser<CheckpointIndex> {
  if (size < 8) {
    throw new CheckpointError(`not a checkpoint: ${size} bytes, shorter than the 8-byte header length of safetensors`);
  }
  const start = yield { begin: 0, end: Math.min(size, 64) };
  const headerLength = new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true);
  if (headerLength < 2n || headerLength > BigInt(Math.min(MAX_HEADER_BYTES, size - 8))) {
    throw new CheckpointError(describeForeign(start, headerLength, size));
  }
  const dataStart = 8 + Number(headerLength);
  const dataBytes = size - dataStart;
  const { entries, fraction } = parseHeader(yield { begin: 8, end: dataStart });

  const metadata = new Map<string, string>();
  const tensors = new Map<string, StoredTensor>();
  const ranges: { name: string; begin: number; end: number }[] = [];
  for (const [name, entry] of entries) {
    if (name === '__metadata__') {
      readMetadata(entry, metadata);
      continue;
    }
    const { dtype, shape, begin, end } = readEntry(name, entry, dataBytes);
    ranges.push({ name, begin, end });
    const region = { at: dataStart + begin, header: 'none', size: end - begin, elements: 0, name } as const;
    tensors.set(name, { dtype, shape, region, offset: 0, strides: null });
  }
  if (fraction >= 0)
    throw new CheckpointError(`the safetensors header has a number with a fraction at character ${fraction}`);
  checkCoverage(ranges, dataBytes);
  return { format: 'safetensors', tensors, metadata };
}

function describeForeign(bytes: Uint8Array, headerLength: bigint, size: number): string {
  const start = new TextDecoder('latin1').decode(bytes.subarray(0, 40));
  if (start.startsWith('version https://git-lfs')) {
    return 'this is a Git LFS pointer, not the file itself; fetch the file with "git lfs pull"';
  }
  if (start.startsWith('PK')) return 'this is a zip archive, not a safetensors file';
  return `not a safetensors file nor one of PyTorch, or cut off: as safetensors it announces a header of ${headerLength} bytes and has ${size} bytes`;
}

function parseHeader(bytes: Uint8Array): { entries: Map<string, unknown>; fraction: number } {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new CheckpointError('the safetensors header is not UTF-8 text');
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`the safetensors header is not JSON (${error instanceof Error ? error.message : error})`);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new CheckpointError('the safetensors header is not a JSON object');
  }
  if (!text.startsWith('{')) throw new CheckpointError('the safetensors header does not begin with its brace');
  return { entries: new Map(Object.entries(parsed)), fraction: checkText(text) };
}

/**
 * What JSON.parse lets pass: a key twice in one object, of which it keeps the last, and 4.0 for the integer 4.
 *
 * @returns where the first number with a fraction stands, or -1
 */
function checkText(json: string): number {
  const open: Set<string>[] = [];
  const colon = /\s*:/y;
  let fraction = -1;
  for (let at = 0; at < json.length; at++) {
    const character = json[at]!;
    if (character === '{') open.push(new Set());
    else if (character === '}') open.pop();
    else if (character === '.' && fraction < 0) fraction = at;
    else if (character === '"') {
      const start = at;
      for (at++; json[at] !== '"'; at++) if (json[at] === '\\') at++;
      colon.lastIndex = at + 1;
      if (!colon.test(json)) continue;
      const key = JSON.parse(json.slice(start, at + 1)) as string;
      const keys = open.at(-1)!;
      if (keys.has(key)) throw new CheckpointError(`the safetensors header names ${show(key)} twice`);
      keys.add(key);
    }
  }
  return fraction;
}

function readMetadata(entry: unknown, metadata: Map<string, string>): void {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) {
    throw new CheckpointError('__metadata__ is not an object of strings');
  }
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') throw new CheckpointError(`__metadata__.${key} is not a string`);
    metadata.set(key, value);
  }
}

function readEntry(name: string, entry: unknown, dataBytes: number) {
  const { dtype, shape, data_offsets: offsets } = Object(entry) as Record<string, unknown>;
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  const where = `tensor ${show(name)}`;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw new CheckpointError(`${where} has dtype ${show(dtype)}; known are ${Object.keys(DTYPE_BYTES).join(', ')}`);
  }
  if (!Array.isArray(shape) || !shape.every(whole)) {
    throw new CheckpointError(`${where} has shape ${show(shape)}; expected non-negative integers`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(whole) || offsets[0]! > offsets[1]!) {
    throw new CheckpointError(`${where} has data_offsets ${show(offsets)}; expected [begin, end]`);
  }
  const [begin, end] = offsets as [number, number];
  if (end > dataBytes) {
    throw new CheckpointError(
      `${where} ends at byte ${end}, but the file has ${dataBytes} bytes of data; is it cut off?`,
    );
  }
  const expected = (shape as number[]).reduce((a, b) => a * b, DTYPE_BYTES[dtype as Dtype]);
  const longest = (shape as number[]).reduce((a, b) => a * Math.max(1, b), 8);
  if (!Number.isSafeInteger(longest) || expected !== end - begin) {
    throw new CheckpointError(`${where}: ${dtype} ${show(shape)} takes ${expected} bytes, found ${end - begin}`);
  }
  return { dtype: dtype as Dtype, shape: shape as number[], begin, end };
}

function checkCoverage(ranges: { name: string; begin: number; end: number }[], dataBytes: number): void {
  let at = 0;
  for (const { name, begin, end } of ranges.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== at) {
      const what = begin < at ? 'overlaps the tensor before it' : `leaves ${begin - at} bytes unused before it`;
      throw new CheckpointError(`tensor ${show(name)} ${what}`);
    }
    at = end;
  }
  if (at !== dataBytes) throw new CheckpointError(`${dataBytes - at} bytes follow the last tensor`);
}

/** Values of a tensor as numbers. 64-bit integers must be within 2^53. */
export const toNumbers = ({ dtype, bytes }: CheckpointTensor): Float64Array => numbersOf(dtype, bytes);

/** A tensor to be written. */
export interface TensorToWrite {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
}

/** The bytes of a safetensors file. Wider types come first, so that every tensor is aligned to its element size. */
export function writeSafetensors(
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  for (const [name, tensor] of Object.entries(tensors)) {
    const expected = tensorBytes(tensor);
    if (expected !== tensor.data.byteLength)
      throw new RangeError(`${name}: expected ${expected} bytes, found ${tensor.data.byteLength}`);
  }
  const { header, order, size } = safetensorsHeader(new Map(Object.entries(tensors)), metadata);
  const file = new Uint8Array(header.byteLength + size);
  file.set(header);
  let at = header.byteLength;
  for (const [, { data }] of order) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

/**
 * The beginning of a safetensors file: the length and the header, padded with spaces to a multiple of 8.
 *
 * @returns also the order in which the data must follow, wider types first, and their bytes
 */
export function safetensorsHeader<T extends TensorInfo>(
  tensors: ReadonlyMap<string, T>,
  metadata: Readonly<Record<string, string>> = {},
): { header: Uint8Array; order: [name: string, tensor: T][]; size: number } {
  const order = [...tensors].sort(([, a], [, b]) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  let size = 0;
  for (const [name, tensor] of order) {
    const end = size + tensorBytes(tensor);
    entries.push([name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [size, end] }]);
    size = end;
  }
  // Not an object of these: a tensor may be called __proto__.
  const json = `{${entries.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(',')}}`;
  const text = new TextEncoder().encode(json);
  const padded = Math.ceil(text.byteLength / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20, 8);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(text, 8);
  return { header, order, size };
}
