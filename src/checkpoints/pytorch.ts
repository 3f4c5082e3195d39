/**
 * @file PyTorch checkpoints: the zip format of torch.save since 1.6, and the one before.
 *
 * The pickle inside is read by our own machine (pickle.ts) and yields places in the file; values are read later.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { DTYPE_BYTES } from './dtypes.ts';
import { CutOff, StorageReference, TensorReference, type Unpickled, unpickle, type Value } from './pickle.ts';
import { show } from './show.ts';
import { type Parser, take } from './source.ts';
import { type CheckpointIndex, elementCount, locate, type Region, type StoredTensor } from './stored.ts';
import { indexZip } from './zip.ts';

/** The number that the format before 1.6 begins with, as a pickle of a long integer. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;

/** A pickle is read whole. That of a checkpoint of 100 000 tensors has 30 MB. */
const MAX_PICKLE_BYTES = 64 * 2 ** 20;

/** Whether a file begins as PyTorch's formats do. A safetensors header may begin with any length, but has its brace. */
export function looksLikePytorch(start: Uint8Array): boolean {
  return (start[0] === 0x50 && start[1] === 0x4b) || (start[0] === 0x80 && start[8] !== 0x7b);
}

/** Keys under which training scripts keep the weights, the better ones first. */
const USUAL_KEYS = ['ema', 'ema_state_dict', 'state_dict', 'model_state_dict', 'model', 'net', 'module'];

/**
 * Reads what a file holds, not the values.
 *
 * @param key where the state dict lies, if it is not the file itself or under a usual name; a path "a.b" for a nested one
 * @throws CheckpointError naming what is wrong; nothing in the file is executed
 */
export function* indexPytorch(size: number, key?: string): Parser<CheckpointIndex> {
  const start = yield { begin: 0, end: Math.min(size, 2) };
  const zip = start[0] === 0x50;
  const { value, regions } = zip ? yield* readArchive(size) : yield* readLegacy(size);
  const tensors = new Map<string, StoredTensor>();
  let gathered = 0;
  for (const [name, entry] of findStateDict(value, key)) {
    if (typeof name !== 'string')
      throw new CheckpointError(`the state dict has a key that is no string: ${show(name)}`);
    if (!(entry instanceof TensorReference)) continue;
    const tensor = place(name, entry, regions(entry.storage));
    tensors.set(name, tensor);
    // An axis of stride 0 makes a tensor of any size out of one element; only what a file could hold is believed.
    if (tensor.strides !== null) gathered += elementCount(tensor.shape) * DTYPE_BYTES[tensor.dtype];
    if (gathered > Math.max(2 ** 16, 2 * size))
      throw new CheckpointError(`tensor ${show(name)} [${tensor.shape.join(', ')}] is larger than its file could hold`);
  }
  return { format: zip ? 'PyTorch zip' : 'PyTorch legacy', tensors, metadata: new Map() };
}

type Regions = (reference: StorageReference) => Region;

function* readArchive(size: number): Parser<{ value: Value; regions: Regions }> {
  const members = yield* indexZip(size);
  const pickleName = [...members.keys()].find((name) => name === 'data.pkl' || name.endsWith('/data.pkl'));
  if (pickleName === undefined) throw new CheckpointError('a zip archive, but not one of PyTorch: it has no data.pkl');
  const folder = pickleName.slice(0, -'data.pkl'.length);
  const order = members.get(`${folder}byteorder`);
  if (order && new TextDecoder().decode(yield* readMember(size, order, 64)).trim() !== 'little') {
    throw new CheckpointError('the checkpoint was written on a big-endian machine, which is not supported');
  }
  const { value } = unpickle(yield* readMember(size, members.get(pickleName)!, MAX_PICKLE_BYTES));
  const regions: Regions = ({ key, length, dtype }) => {
    const region = members.get(`${folder}data/${key}`);
    if (!region) throw new CheckpointError(`the archive lacks the storage ${show(`${folder}data/${key}`)}`);
    const wanted = length * DTYPE_BYTES[dtype];
    if (region.size < wanted) {
      throw new CheckpointError(
        `storage ${show(key)} should hold ${length} ${dtype} (${wanted} bytes), found ${region.size} bytes`,
      );
    }
    return region;
  };
  return { value, regions };
}

function* readMember(size: number, region: Region, most: number): Parser<Uint8Array> {
  if (region.size > most) {
    throw new CheckpointError(`${show(region.name)} has ${region.size} bytes; a checkpoint’s has at most ${most}`);
  }
  const begin = yield* locate(size, region);
  return yield { begin, end: begin + region.size };
}

/** Magic number, protocol, system, the data, the keys of its storages, then each storage with its length. */
function* readLegacy(size: number): Parser<{ value: Value; regions: Regions }> {
  const head = new Head(size);
  const magic = yield* head.unpickle();
  if (magic !== LEGACY_MAGIC) {
    throw new CheckpointError('a pickle, but not a PyTorch checkpoint: it does not begin with PyTorch’s magic number');
  }
  yield* head.unpickle(); // protocol version
  const system = yield* head.unpickle();
  if (system instanceof Map && system.get('little_endian') === false) {
    throw new CheckpointError('the checkpoint was written on a big-endian machine, which is not supported');
  }
  const value = yield* head.unpickle();
  const keys = yield* head.unpickle();
  if (!Array.isArray(keys)) throw new CheckpointError('the checkpoint has no list of storages');
  const references = storageReferences(value);
  const found = new Map<string, Region>();
  let at = head.at;
  for (const key of keys) {
    const reference = typeof key === 'string' ? references.get(key) : undefined;
    if (reference === undefined) throw new CheckpointError(`storage ${show(key)} belongs to no tensor`);
    const bytes = reference.length * DTYPE_BYTES[reference.dtype];
    const name = `storage ${show(key)}`;
    if (!(at + 8 + bytes <= size)) {
      throw new CheckpointError(
        `the checkpoint is cut off inside ${name}: it should have ${reference.length} ${reference.dtype}`,
      );
    }
    found.set(reference.key, { at, header: 'legacy', size: bytes, elements: reference.length, name });
    at += 8 + bytes;
  }
  const regions: Regions = ({ key, length, dtype }) => {
    const region = found.get(key);
    if (!region) throw new CheckpointError(`the checkpoint lacks storage ${show(key)}`);
    if (region.size < length * DTYPE_BYTES[dtype]) {
      throw new CheckpointError(`storage ${show(key)} should hold ${length} ${dtype}, found ${region.size} bytes`);
    }
    return region;
  };
  return { value, regions };
}

/** The pickles at the beginning of a legacy file, whose lengths nobody tells: read on until they end. */
class Head {
  readonly #size: number;
  #bytes = new Uint8Array(0);
  at = 0;

  constructor(size: number) {
    this.#size = size;
  }

  *unpickle(): Parser<Value> {
    for (;;) {
      const read = this.#bytes.byteLength;
      try {
        if (read > 0) {
          const { value, end }: Unpickled = unpickle(this.#bytes, this.at);
          this.at = end;
          return value;
        }
      } catch (error) {
        if (!(error instanceof CutOff) || read === Math.min(this.#size, MAX_PICKLE_BYTES)) throw error;
      }
      const length = Math.min(this.#size, MAX_PICKLE_BYTES, Math.max(2 ** 18, 4 * read));
      this.#bytes = (yield* take(this.#size, 0, length, 'its pickles')) as Uint8Array<ArrayBuffer>;
    }
  }
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

function storageReferences(value: Value): Map<string, StorageReference> {
  const references = new Map<string, StorageReference>();
  for (const part of walk(value)) {
    const storage = part instanceof TensorReference ? part.storage : part instanceof StorageReference ? part : null;
    if (storage) references.set(storage.key, storage);
  }
  return references;
}

const holdsTensors = (value: Value | undefined): value is Map<Value, Value> => {
  if (!(value instanceof Map)) return false;
  for (const entry of value.values()) if (entry instanceof TensorReference) return true;
  return false;
};

function findStateDict(value: Value, key: string | undefined): Map<Value, Value> {
  if (key !== undefined) {
    const wanted = at(value, key);
    if (holdsTensors(wanted)) return wanted;
    throw new CheckpointError(`the checkpoint has no state dict under ${show(key)}${keysOf(value)}`);
  }
  if (holdsTensors(value)) return value;
  for (const usual of USUAL_KEYS) {
    const inner = at(value, usual);
    if (holdsTensors(inner)) return inner;
  }
  const nested = nestedDicts(value);
  if (nested.length === 1) return nested[0]!.dict;
  if (nested.length > 1) {
    const paths = nested.map(({ path }) => show(path)).slice(0, 8);
    throw new CheckpointError(
      `the checkpoint holds several state dicts, under ${paths.join(', ')}; say which by its key`,
    );
  }
  throw new CheckpointError(`the checkpoint holds no state dict${keysOf(value)}`);
}

/** What lies under a key, or under a path of keys with dots between. */
function at(value: Value, key: string): Value | undefined {
  if (!(value instanceof Map)) return undefined;
  if (value.has(key)) return value.get(key);
  return key.split('.').reduce<Value | undefined>((v, part) => (v instanceof Map ? v.get(part) : undefined), value);
}

/** Dictionaries with tensors inside dictionaries, three levels deep at most. */
function nestedDicts(value: Value): { path: string; dict: Map<Value, Value> }[] {
  const found: { path: string; dict: Map<Value, Value> }[] = [];
  const look = (inner: Value, path: readonly string[]) => {
    if (holdsTensors(inner)) found.push({ path: path.join('.'), dict: inner });
    else if (inner instanceof Map && path.length < 3) {
      for (const [key, next] of inner as Map<Value, Value>) if (typeof key === 'string') look(next, [...path, key]);
    }
  };
  look(value, []);
  return found;
}

const keysOf = (value: Value): string =>
  value instanceof Map ? `; its keys are ${[...value.keys()].slice(0, 8).map(show).join(', ')}` : '';

/** Checks that a tensor lies within its storage. */
function place(name: string, tensor: TensorReference, region: Region): StoredTensor {
  const { storage, offset, shape, strides } = tensor;
  const { dtype } = storage;
  const size = DTYPE_BYTES[dtype];
  const count = elementCount(shape);
  const end =
    count === 0 ? offset : shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis]!, offset) + 1;
  if (!Number.isSafeInteger(count) || !Number.isSafeInteger(end) || end > storage.length || end * size > region.size) {
    throw new CheckpointError(
      `tensor ${show(name)} [${shape.join(', ')}] reaches past its storage of ${storage.length} elements`,
    );
  }
  let expected = 1;
  const contiguous = [...shape.keys()].reverse().every((axis) => {
    const fits = shape[axis] === 1 || strides[axis] === expected;
    expected *= shape[axis]!;
    return fits;
  });
  return { dtype, shape, region, offset: offset * size, strides: contiguous || count === 0 ? null : strides };
}
