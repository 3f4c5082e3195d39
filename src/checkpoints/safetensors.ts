/**
 * @file The safetensors format, read with suspicion and written with care.
 *
 * A file is: an 8-byte little-endian header length, a JSON header { name: { dtype, shape, data_offsets } }, the data. The
 * reader holds the file to what the format promises: offsets in range and in agreement with type and shape, no overlap,
 * no hole, no byte left over, no name twice. It never copies a tensor.
 */
import { CheckpointError } from '../runtime/errors.ts';

/** Bytes of one element. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

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
  if (bytes.byteLength < 8) {
    throw new CheckpointError(
      `not a safetensors file: ${bytes.byteLength} bytes, shorter than the 8-byte header length`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerLength = view.getBigUint64(0, true);
  if (headerLength < 2n || headerLength > BigInt(Math.min(MAX_HEADER_BYTES, bytes.byteLength - 8))) {
    throw new CheckpointError(describeForeign(bytes, headerLength));
  }
  const dataStart = 8 + Number(headerLength);
  const header = parseHeader(bytes.subarray(8, dataStart));
  const data = bytes.subarray(dataStart);

  const metadata = new Map<string, string>();
  const tensors = new Map<string, CheckpointTensor>();
  const ranges: { name: string; begin: number; end: number }[] = [];
  for (const [name, entry] of header) {
    if (name === '__metadata__') {
      readMetadata(entry, metadata);
      continue;
    }
    const { dtype, shape, begin, end } = readEntry(name, entry, data.byteLength);
    ranges.push({ name, begin, end });
    tensors.set(name, { dtype, shape, bytes: data.subarray(begin, end) });
  }
  checkCoverage(ranges, data.byteLength);
  return { tensors, metadata };
}

function describeForeign(bytes: Uint8Array, headerLength: bigint): string {
  const start = new TextDecoder('latin1').decode(bytes.subarray(0, 40));
  if (start.startsWith('version https://git-lfs')) {
    return 'this is a Git LFS pointer, not the file itself; fetch the file with "git lfs pull"';
  }
  if (start.startsWith('PK')) return 'this is a zip archive, not a safetensors file';
  return `not a safetensors file, or cut off: it announces a header of ${headerLength} bytes and has ${bytes.byteLength} bytes`;
}

function parseHeader(bytes: Uint8Array): Map<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
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
  const header = new Map(Object.entries(parsed));
  const keys = topLevelKeys(text);
  if (keys.length !== header.size) {
    const twice = keys.find((key, i) => keys.indexOf(key) !== i);
    throw new CheckpointError(`the safetensors header names ${JSON.stringify(twice)} twice`);
  }
  return header;
}

/** Keys of a JSON object as they stand in the text, repetitions included: JSON.parse would drop all but the last. */
function topLevelKeys(json: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  for (const match of json.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/gs)) {
    const token = match[0];
    if (token === '{' || token === '[') depth++;
    else if (token === '}' || token === ']') depth--;
    else if (depth === 1 && match[1] !== undefined) keys.push(JSON.parse(token.slice(0, -match[1].length)) as string);
  }
  return keys;
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
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  const where = `tensor ${JSON.stringify(name)}`;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw new CheckpointError(
      `${where} has dtype ${JSON.stringify(dtype)}; known are ${Object.keys(DTYPE_BYTES).join(', ')}`,
    );
  }
  if (!Array.isArray(shape) || !shape.every(whole)) {
    throw new CheckpointError(`${where} has shape ${JSON.stringify(shape)}; expected non-negative integers`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(whole) || offsets[0]! > offsets[1]!) {
    throw new CheckpointError(`${where} has data_offsets ${JSON.stringify(offsets)}; expected [begin, end]`);
  }
  const [begin, end] = offsets as [number, number];
  if (end > dataBytes) {
    throw new CheckpointError(
      `${where} ends at byte ${end}, but the file has ${dataBytes} bytes of data; is it cut off?`,
    );
  }
  const expected = (shape as number[]).reduce((a, b) => a * b, DTYPE_BYTES[dtype as Dtype]);
  if (expected !== end - begin) {
    throw new CheckpointError(
      `${where}: ${dtype} ${JSON.stringify(shape)} takes ${expected} bytes, found ${end - begin}`,
    );
  }
  return { dtype: dtype as Dtype, shape: shape as number[], begin, end };
}

function checkCoverage(ranges: { name: string; begin: number; end: number }[], dataBytes: number): void {
  let at = 0;
  for (const { name, begin, end } of ranges.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== at) {
      const what = begin < at ? 'overlaps the tensor before it' : `leaves ${begin - at} bytes unused before it`;
      throw new CheckpointError(`tensor ${JSON.stringify(name)} ${what}`);
    }
    at = end;
  }
  if (at !== dataBytes) throw new CheckpointError(`${dataBytes - at} bytes follow the last tensor`);
}

/** Values of a tensor as numbers. 64-bit integers must be within 2^53. */
export function toNumbers({ dtype, bytes }: CheckpointTensor): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = DTYPE_BYTES[dtype];
  return Float64Array.from({ length: bytes.byteLength / size }, (_, i) => readValue(view, dtype, i * size));
}

function readValue(view: DataView, dtype: Dtype, at: number): number {
  switch (dtype) {
    case 'F64':
      return view.getFloat64(at, true);
    case 'F32':
      return view.getFloat32(at, true);
    case 'F16':
      return halfToNumber(view.getUint16(at, true));
    case 'BF16':
      return bfloat16ToNumber(view.getUint16(at, true));
    case 'I64':
      return Number(view.getBigInt64(at, true));
    case 'U64':
      return Number(view.getBigUint64(at, true));
    case 'I32':
      return view.getInt32(at, true);
    case 'U32':
      return view.getUint32(at, true);
    case 'I16':
      return view.getInt16(at, true);
    case 'U16':
      return view.getUint16(at, true);
    case 'I8':
      return view.getInt8(at);
    case 'U8':
    case 'BOOL':
      return view.getUint8(at);
  }
}

/** IEEE 754 binary16 to number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

const scratch = new DataView(new ArrayBuffer(4));

export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

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
  const entries = Object.entries(tensors).sort(([, a], [, b]) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header['__metadata__'] = metadata;
  let size = 0;
  for (const [name, { dtype, shape, data }] of entries) {
    const expected = shape.reduce((a, b) => a * b, DTYPE_BYTES[dtype]);
    if (expected !== data.byteLength)
      throw new RangeError(`${name}: expected ${expected} bytes, found ${data.byteLength}`);
    header[name] = { dtype, shape, data_offsets: [size, size + expected] };
    size += expected;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(text.byteLength / 8) * 8;
  const file = new Uint8Array(8 + padded + size).fill(0x20, 8, 8 + padded);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded), true);
  file.set(text, 8);
  let at = 8 + padded;
  for (const [, { data }] of entries) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}
