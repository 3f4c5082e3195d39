/**
 * @file PyTorch checkpoints: the zip format of torch.save since 1.6, and the one before.
 *
 * Tensors that lie contiguous in their storage are views of the file; others are copied once.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { StorageReference, TensorReference, unpickle, type Value } from './pickle.ts';
import { type Checkpoint, type CheckpointTensor, DTYPE_BYTES } from './safetensors.ts';
import { readZip } from './zip.ts';

/** The number that the format before 1.6 begins with, as a pickle of a long integer. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;

/** Whether a file begins as PyTorch's formats do. A safetensors header may begin with any length, but has its brace. */
export function looksLikePytorch(bytes: Uint8Array): boolean {
  return (bytes[0] === 0x50 && bytes[1] === 0x4b) || (bytes[0] === 0x80 && bytes[8] !== 0x7b);
}

/** Keys under which training scripts keep the weights, the better ones first. */
const USUAL_KEYS = ['ema', 'ema_state_dict', 'state_dict', 'model_state_dict', 'model', 'net', 'module'];

/**
 * @param key where the state dict lies, if it is not the file itself or under a usual name
 * @throws CheckpointError naming what is wrong; nothing in the file is executed
 */
export function readPytorch(bytes: Uint8Array, key?: string): Checkpoint {
  const { value, storages } = bytes[0] === 0x50 ? readArchive(bytes) : readLegacy(bytes);
  const dict = findStateDict(value, key);
  const tensors = new Map<string, CheckpointTensor>();
  const budget = { bytes: Math.max(1 << 16, 2 * bytes.byteLength) };
  for (const [name, entry] of dict) {
    if (typeof name !== 'string')
      throw new CheckpointError(`the state dict has a key that is no string: ${String(name)}`);
    if (entry instanceof TensorReference) tensors.set(name, materialise(name, entry, storages, budget));
  }
  return { tensors, metadata: new Map() };
}

type Storages = (reference: StorageReference) => Uint8Array;

function readArchive(bytes: Uint8Array): { value: Value; storages: Storages } {
  const members = readZip(bytes);
  const pickleName = [...members.keys()].find((name) => name === 'data.pkl' || name.endsWith('/data.pkl'));
  if (pickleName === undefined) throw new CheckpointError('a zip archive, but not one of PyTorch: it has no data.pkl');
  const folder = pickleName.slice(0, -'data.pkl'.length);
  const order = members.get(`${folder}byteorder`);
  if (order && new TextDecoder().decode(order).trim() !== 'little') {
    throw new CheckpointError('the checkpoint was written on a big-endian machine, which is not supported');
  }
  const { value } = unpickle(members.get(pickleName)!);
  const storages: Storages = ({ key, length, dtype }) => {
    const data = members.get(`${folder}data/${key}`);
    if (!data) throw new CheckpointError(`the archive lacks the storage ${folder}data/${key}`);
    const wanted = length * DTYPE_BYTES[dtype];
    if (data.byteLength < wanted) {
      throw new CheckpointError(
        `storage ${key} should hold ${length} ${dtype} (${wanted} bytes), found ${data.byteLength} bytes`,
      );
    }
    return data.subarray(0, wanted);
  };
  return { value, storages };
}

/** Magic number, protocol, system, the data, the keys of its storages, then each storage with its length. */
function readLegacy(bytes: Uint8Array): { value: Value; storages: Storages } {
  const magic = unpickle(bytes);
  if (magic.value !== LEGACY_MAGIC) {
    throw new CheckpointError('a pickle, but not a PyTorch checkpoint: it does not begin with PyTorch’s magic number');
  }
  const protocol = unpickle(bytes, magic.end);
  const system = unpickle(bytes, protocol.end);
  if (system.value instanceof Map && system.value.get('little_endian') === false) {
    throw new CheckpointError('the checkpoint was written on a big-endian machine, which is not supported');
  }
  const data = unpickle(bytes, system.end);
  const keys = unpickle(bytes, data.end);
  if (!Array.isArray(keys.value)) throw new CheckpointError('the checkpoint has no list of storages');
  const types = storageTypes(data.value);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = new Map<string, { data: Uint8Array; length: number }>();
  let at = keys.end;
  for (const key of keys.value) {
    const type = typeof key === 'string' ? types.get(key) : undefined;
    if (type === undefined) throw new CheckpointError(`storage ${String(key)} belongs to no tensor`);
    if (at + 8 > bytes.byteLength) throw new CheckpointError(`the checkpoint is cut off before storage ${String(key)}`);
    const length = Number(view.getBigInt64(at, true));
    const size = length * DTYPE_BYTES[type];
    if (length < 0 || at + 8 + size > bytes.byteLength) {
      throw new CheckpointError(
        `the checkpoint is cut off inside storage ${String(key)}: it should have ${length} ${type}`,
      );
    }
    found.set(key as string, { data: bytes.subarray(at + 8, at + 8 + size), length });
    at += 8 + size;
  }
  const storages: Storages = ({ key, length }) => {
    const storage = found.get(key);
    if (!storage) throw new CheckpointError(`the checkpoint lacks storage ${key}`);
    if (storage.length < length) {
      throw new CheckpointError(`storage ${key} should hold ${length} elements, found ${storage.length}`);
    }
    return storage.data;
  };
  return { value: data.value, storages };
}

/** Walks plain data without recursion: a file may nest as deep as it likes. */
function* walk(value: Value): Generator<Value> {
  const pending: Value[] = [value];
  const seen = new Set<Value>();
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    yield next;
    if ((Array.isArray(next) || next instanceof Map) && !seen.has(next)) {
      seen.add(next);
      for (const child of next instanceof Map ? next.values() : next) pending.push(child);
    }
  }
}

function storageTypes(value: Value): Map<string, StorageReference['dtype']> {
  const types = new Map<string, StorageReference['dtype']>();
  for (const part of walk(value)) {
    const storage = part instanceof TensorReference ? part.storage : part instanceof StorageReference ? part : null;
    if (storage) types.set(storage.key, storage.dtype);
  }
  return types;
}

const holdsTensors = (value: Value | undefined): value is Map<Value, Value> =>
  value instanceof Map && [...value.values()].some((entry) => entry instanceof TensorReference);

function findStateDict(value: Value, key: string | undefined): Map<Value, Value> {
  if (key !== undefined) {
    const wanted = value instanceof Map ? value.get(key) : undefined;
    if (holdsTensors(wanted)) return wanted;
    throw new CheckpointError(`the checkpoint has no state dict under "${key}"${keysOf(value)}`);
  }
  if (holdsTensors(value)) return value;
  if (value instanceof Map) {
    for (const usual of USUAL_KEYS) {
      const inner = value.get(usual);
      if (holdsTensors(inner)) return inner;
    }
  }
  throw new CheckpointError(`the checkpoint holds no state dict${keysOf(value)}`);
}

const keysOf = (value: Value): string =>
  value instanceof Map ? `; its keys are ${[...value.keys()].slice(0, 8).map(String).join(', ')}` : '';

/** A tensor's values in row-major order: a view where they lie so, else a copy within the file's own order of size. */
function materialise(
  name: string,
  tensor: TensorReference,
  storages: Storages,
  budget: { bytes: number },
): CheckpointTensor {
  const { storage, offset, shape, strides } = tensor;
  const data = storages(storage);
  const size = DTYPE_BYTES[storage.dtype];
  const count = shape.reduce((a, b) => a * b, 1);
  const last = count === 0 ? -1 : shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis]!, offset);
  if (!Number.isSafeInteger(last) || (last + 1) * size > data.byteLength || offset * size > data.byteLength) {
    throw new CheckpointError(
      `tensor ${name} [${shape.join(', ')}] reaches past its storage of ${storage.length} elements`,
    );
  }
  const { dtype } = storage;
  let expected = 1;
  const contiguous = [...shape.keys()].reverse().every((axis) => {
    const fits = shape[axis] === 1 || strides[axis] === expected;
    expected *= shape[axis]!;
    return fits;
  });
  if (contiguous || count === 0) return { dtype, shape, bytes: data.subarray(offset * size, (offset + count) * size) };

  budget.bytes -= count * size;
  if (budget.bytes < 0)
    throw new CheckpointError(`tensor ${name} [${shape.join(', ')}] is larger than its file could hold`);
  const bytes = new Uint8Array(count * size);
  const index = new Array<number>(shape.length).fill(0);
  let from = offset;
  for (let i = 0; i < count; i++) {
    bytes.set(data.subarray(from * size, (from + 1) * size), i * size);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  return { dtype, shape, bytes };
}
