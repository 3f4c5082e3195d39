/**
 * @file A tensor as it lies in a file: type, shape, place and strides, before any value is read.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { DTYPE_BYTES, type Dtype } from './dtypes.ts';
import { type Parser, take } from './source.ts';

/** What is known of a tensor from the file's index alone. */
export interface TensorInfo {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** For int8: the tensor [O] of the factors that make numbers of them, one for each slice along the first axis. */
  readonly scale?: string;
}

/** A run of bytes in a file. Archives put a small header before each, which is read and checked only with the data. */
export interface Region {
  /** The first byte: of the data, or of the header before it. */
  readonly at: number;
  readonly header: 'none' | 'zip' | 'legacy';
  /** Bytes of data. */
  readonly size: number;
  /** Elements that a legacy header must announce. */
  readonly elements: number;
  /** In words, for complaints. */
  readonly name: string;
}

export interface StoredTensor extends TensorInfo {
  readonly region: Region;
  /** Bytes from the region's first to the tensor's. */
  readonly offset: number;
  /** Elements between neighbours along each axis; null for row-major order without gaps. */
  readonly strides: readonly number[] | null;
}

export const elementCount = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export const tensorBytes = ({ dtype, shape }: TensorInfo): number => elementCount(shape) * DTYPE_BYTES[dtype];

/** Bytes from a tensor's first element to the end of its last. */
function spanBytes(tensor: StoredTensor): number {
  const { dtype, shape, strides } = tensor;
  if (strides === null) return tensorBytes(tensor);
  if (elementCount(shape) === 0) return 0;
  return (shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis]!, 0) + 1) * DTYPE_BYTES[dtype];
}

const ZIP_LOCAL_HEADER = 0x04034b50;

/** Where a region's data begins in the file. */
export function* locate(size: number, region: Region): Parser<number> {
  const { at, header, name, elements } = region;
  if (header === 'none') return at;
  const length = header === 'zip' ? 30 : 8;
  const bytes = yield* take(size, at, length, name);
  const view = new DataView(bytes.buffer, bytes.byteOffset, length);
  let start = at + length;
  if (header === 'zip') {
    if (view.getUint32(0, true) !== ZIP_LOCAL_HEADER)
      throw new CheckpointError(`the zip archive is damaged: ${name} is not where it should be`);
    start += view.getUint16(26, true) + view.getUint16(28, true);
  } else if (view.getBigInt64(0, true) !== BigInt(elements)) {
    throw new CheckpointError(
      `the checkpoint is damaged: ${name} should have ${elements} elements, found ${view.getBigInt64(0, true)}`,
    );
  }
  if (start + region.size > size) throw new CheckpointError(`the file is cut off inside ${name}`);
  return start;
}

/** A tensor's values in row-major order: what the source gives where they lie so, else gathered from there. */
export function* readStored(size: number, tensor: StoredTensor): Parser<Uint8Array> {
  const begin = (yield* locate(size, tensor.region)) + tensor.offset;
  const bytes = yield { begin, end: begin + spanBytes(tensor) };
  return tensor.strides === null ? bytes : gather(bytes, tensor.shape, tensor.strides, DTYPE_BYTES[tensor.dtype]);
}

function gather(data: Uint8Array, shape: readonly number[], strides: readonly number[], size: number): Uint8Array {
  const count = elementCount(shape);
  const bytes = new Uint8Array(count * size);
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < bytes.byteLength; to += size) {
    for (let i = 0; i < size; i++) bytes[to + i] = data[from * size + i]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  return bytes;
}

/** What a file holds, before any value is read. */
export interface CheckpointIndex {
  readonly format: 'safetensors' | 'PyTorch zip' | 'PyTorch legacy';
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}
