/**
 * @file A pickle machine that only builds plain data and tensors.
 *
 * A pickle is a program. This machine knows the instructions that PyTorch's own writer uses, and calls only the handful of
 * functions in `GLOBALS`; any other name is refused before anything could be called. Nothing in a file is ever executed.
 */
import { CheckpointError } from '../runtime/errors.ts';
import type { Dtype } from './dtypes.ts';
import { show } from './show.ts';

/** A storage as a pickle names it: its bytes lie elsewhere in the file. */
export class StorageReference {
  readonly dtype: Dtype;
  readonly key: string;
  readonly length: number;

  constructor(dtype: Dtype, key: string, length: number) {
    this.dtype = dtype;
    this.key = key;
    this.length = length;
  }
}

/** A strided view of a storage. */
export class TensorReference {
  readonly storage: StorageReference;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];

  constructor(storage: StorageReference, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

/** Values a pickle may hold. Dictionaries become maps, so that no key can touch an object's prototype. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Value[]
  | Map<Value, Value>
  | TensorReference
  | StorageReference
  | Global;

/** A function or class that a pickle names. */
class Global {
  readonly name: string;
  readonly call: ((args: Value[]) => Value) | null;
  readonly dtype: Dtype | null;

  constructor(name: string, call: ((args: Value[]) => Value) | null, dtype: Dtype | null = null) {
    this.name = name;
    this.call = call;
    this.dtype = dtype;
  }
}

const STORAGES: Readonly<Record<string, Dtype>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
};

const GLOBALS = new Map<string, Global>();
const define = (name: string, call: (args: Value[]) => Value) => GLOBALS.set(name, new Global(name, call));
define('collections.OrderedDict', (args) => dictionary(args));
define('torch._utils._rebuild_tensor', rebuildTensor);
define('torch._utils._rebuild_tensor_v2', rebuildTensor);
define('torch._utils._rebuild_parameter', ([data]) => expectTensor(data, '_rebuild_parameter'));
define('torch.Size', ([list]) => list ?? []);
for (const [name, dtype] of Object.entries(STORAGES))
  GLOBALS.set(`torch.${name}`, new Global(`torch.${name}`, null, dtype));

function dictionary([items]: Value[]): Value {
  const map = new Map<Value, Value>();
  if (items === undefined) return map;
  if (!Array.isArray(items))
    throw new CheckpointError('the pickle builds an OrderedDict from something that is no list');
  for (const pair of items) {
    if (!Array.isArray(pair) || pair.length !== 2)
      throw new CheckpointError('the pickle builds an OrderedDict from no pairs');
    map.set(pair[0]!, pair[1]!);
  }
  return map;
}

function expectTensor(value: Value | undefined, where: string): TensorReference {
  if (value instanceof TensorReference) return value;
  throw new CheckpointError(`the pickle calls ${where} with something that is no tensor`);
}

function rebuildTensor([storage, offset, shape, strides]: Value[]): TensorReference {
  const whole = (v: Value | undefined): v is number => Number.isSafeInteger(v) && (v as number) >= 0;
  const wholes = (v: Value | undefined): v is number[] => Array.isArray(v) && v.every(whole);
  if (
    !(storage instanceof StorageReference) ||
    !whole(offset) ||
    !wholes(shape) ||
    !wholes(strides) ||
    shape.length !== strides.length ||
    shape.length > MAX_AXES
  ) {
    throw new CheckpointError('the pickle rebuilds a tensor from values that describe none');
  }
  return new TensorReference(storage, offset, shape, strides);
}

/** Far more values than any checkpoint has, far fewer than would fill a memory: on the stack, and lists and the like. */
const MAX_VALUES = 1_000_000;

/** PyTorch allows 64. */
const MAX_AXES = 64;

/** The bytes end before the pickle does. There may be more of them in the file. */
export class CutOff extends CheckpointError {
  constructor() {
    super('the pickle is cut off');
  }
}

const MARK = Symbol('mark');

const text = new TextDecoder('utf-8', { fatal: true });

export interface Unpickled {
  readonly value: Value;
  /** The byte after the pickle's end. */
  readonly end: number;
}

/**
 * Runs one pickle.
 *
 * @param start the first byte
 * @throws CheckpointError for an instruction, a name or a value that is not on the list
 */
export function unpickle(bytes: Uint8Array, start = 0): Unpickled {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stack: (Value | typeof MARK)[] = [];
  const memo = new Map<number, Value>();
  let at = start;
  let objects = 0;

  const fail = (why: string): never => {
    throw new CheckpointError(`byte ${at}: ${why}`);
  };
  const take = (length: number): number => {
    if (length < 0 || at + length > bytes.byteLength) throw new CutOff();
    const from = at;
    at += length;
    return from;
  };
  const line = (): string => {
    const end = bytes.indexOf(10, at);
    if (end < 0) throw new CutOff();
    const line = string(end - at);
    take(1);
    return line;
  };
  const string = (length: number): string => {
    const from = take(length);
    try {
      return text.decode(bytes.subarray(from, from + length));
    } catch {
      return fail('a string of the pickle is not UTF-8');
    }
  };
  const push = (value: Value) => {
    if (stack.length >= MAX_VALUES || (typeof value === 'object' && ++objects > MAX_VALUES)) {
      fail('the pickle builds more values than a checkpoint has');
    }
    stack.push(value);
  };
  const pop = (): Value => {
    const value = stack.pop();
    return value === undefined || value === MARK ? fail('the pickle takes a value that is not there') : value;
  };
  const popMark = (): Value[] => {
    const mark = stack.lastIndexOf(MARK);
    if (mark < 0) fail('the pickle has no mark');
    return stack.splice(mark).slice(1) as Value[];
  };
  const top = (): Value => {
    const value = stack.at(-1);
    return value === undefined || value === MARK ? fail('the pickle looks at a value that is not there') : value;
  };
  const remember = (index: number) => memo.set(index, top());
  const recall = (index: number) => push(memo.has(index) ? memo.get(index)! : fail(`the pickle never stored ${index}`));
  const named = (name: string) =>
    push(GLOBALS.get(name) ?? fail(`the pickle names ${show(name).slice(1, -1)}, which a checkpoint may not`));
  const setItems = (items: Value[]) => {
    const map = top();
    if (!(map instanceof Map) || items.length % 2 !== 0)
      return fail('the pickle sets items of something that is no dictionary');
    for (let i = 0; i < items.length; i += 2) map.set(items[i]!, items[i + 1]!);
  };
  const appendAll = (items: Value[]) => {
    const list = top();
    if (!Array.isArray(list)) return fail('the pickle appends to something that is no list');
    for (const item of items) list.push(item);
  };
  const long = (length: number) => {
    const from = take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[from + i]!);
    if (length > 0 && bytes[from + length - 1]! & 0x80) value -= 1n << BigInt(8 * length);
    push(value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value);
  };

  for (;;) {
    const opcode = bytes[take(1)]!;
    switch (opcode) {
      case 0x80: // PROTO
        if (bytes[take(1)]! > 5) fail('the pickle is of a later protocol than 5');
        break;
      case 0x95: // FRAME
        take(8);
        break;
      case 0x2e: // STOP
        return { value: pop(), end: at };
      case 0x28: // MARK
        if (stack.length >= MAX_VALUES) fail('the pickle builds more values than a checkpoint has');
        stack.push(MARK);
        break;
      case 0x30: // POP
        stack.pop();
        break;
      case 0x4e: // NONE
        push(null);
        break;
      case 0x88: // NEWTRUE
        push(true);
        break;
      case 0x89: // NEWFALSE
        push(false);
        break;
      case 0x4a: // BININT
        push(view.getInt32(take(4), true));
        break;
      case 0x4b: // BININT1
        push(bytes[take(1)]!);
        break;
      case 0x4d: // BININT2
        push(view.getUint16(take(2), true));
        break;
      case 0x8a: // LONG1
        long(bytes[take(1)]!);
        break;
      case 0x47: // BINFLOAT
        push(view.getFloat64(take(8), false));
        break;
      case 0x58: // BINUNICODE
        push(string(view.getUint32(take(4), true)));
        break;
      case 0x8c: // SHORT_BINUNICODE
        push(string(bytes[take(1)]!));
        break;
      case 0x55: // SHORT_BINSTRING
        push(string(bytes[take(1)]!));
        break;
      case 0x43: {
        // SHORT_BINBYTES
        const length = bytes[take(1)]!;
        const from = take(length);
        push(bytes.slice(from, from + length));
        break;
      }
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        push([]);
        break;
      case 0x7d: // EMPTY_DICT
        push(new Map());
        break;
      case 0x85: // TUPLE1
        push([pop()]);
        break;
      case 0x86: {
        // TUPLE2
        const b = pop();
        push([pop(), b]);
        break;
      }
      case 0x87: {
        // TUPLE3
        const c = pop();
        const b = pop();
        push([pop(), b, c]);
        break;
      }
      case 0x74: // TUPLE
      case 0x6c: // LIST
        push(popMark());
        break;
      case 0x61: // APPEND
        appendAll([pop()]);
        break;
      case 0x65: // APPENDS
        appendAll(popMark());
        break;
      case 0x73: {
        // SETITEM
        const value = pop();
        setItems([pop(), value]);
        break;
      }
      case 0x75: // SETITEMS
        setItems(popMark());
        break;
      case 0x71: // BINPUT
        remember(bytes[take(1)]!);
        break;
      case 0x72: // LONG_BINPUT
        remember(view.getUint32(take(4), true));
        break;
      case 0x94: // MEMOIZE
        remember(memo.size);
        break;
      case 0x68: // BINGET
        recall(bytes[take(1)]!);
        break;
      case 0x6a: // LONG_BINGET
        recall(view.getUint32(take(4), true));
        break;
      case 0x63: {
        // GLOBAL
        const module = line();
        named(`${module}.${line()}`);
        break;
      }
      case 0x93: {
        // STACK_GLOBAL
        const name = pop();
        const module = pop();
        if (typeof name !== 'string' || typeof module !== 'string') return fail('the pickle names what is no name');
        named(`${module}.${name}`);
        break;
      }
      case 0x52: {
        // REDUCE
        const args = pop();
        const callee = pop();
        if (!(callee instanceof Global) || !callee.call || !Array.isArray(args))
          return fail('the pickle calls what cannot be called');
        push(callee.call(args));
        break;
      }
      case 0x62: // BUILD: attributes of an object, such as _metadata of a state dict; they are not needed
        pop();
        break;
      case 0x51: // BINPERSID
        push(storageOf(pop()));
        break;
      default:
        fail(
          `the pickle has an instruction 0x${opcode.toString(16).padStart(2, '0')} that a checkpoint has no use for`,
        );
    }
  }
}

/** ('storage', type, key, location, length, view of another storage) */
function storageOf(id: Value): StorageReference {
  if (!Array.isArray(id) || id[0] !== 'storage' || !(id[1] instanceof Global) || id[1].dtype === null) {
    throw new CheckpointError('the pickle refers to something outside itself that is no storage');
  }
  const [, type, key, , length, view] = id as [string, Global, Value, Value, Value, Value | undefined];
  if (typeof key !== 'string') throw new CheckpointError('the pickle names a storage by something that is no string');
  if (!Number.isSafeInteger(length) || (length as number) < 0) {
    throw new CheckpointError(`storage ${show(key)} should have a length from 0 on, found ${show(length)}`);
  }
  if (view !== undefined && view !== null)
    throw new CheckpointError(`storage ${show(key)} is a view of another, which is not supported`);
  return new StorageReference(type.dtype!, key, length as number);
}
