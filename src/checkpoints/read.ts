/**
 * @file Reads a checkpoint of any format this project knows, by what the file begins with, not by its name.
 */
import { indexPytorch, looksLikePytorch } from './pytorch.ts';
import { type Checkpoint, indexSafetensors, readIndexed } from './safetensors.ts';
import { type ByteSource, type Parser, parseBytes, parseSource, readInto } from './source.ts';
import { type CheckpointIndex, locate, readStored, type TensorInfo, tensorBytes } from './stored.ts';

export interface ReadOptions {
  /** In a PyTorch file: the key under which the state dict lies. Found by itself under the usual names. */
  readonly key?: string | undefined;
}

/**
 * @param file the whole file; tensors are views of it wherever they can be
 * @throws CheckpointError naming what is wrong
 */
export function readCheckpoint(file: ArrayBuffer | Uint8Array, { key }: ReadOptions = {}): Checkpoint {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return readIndexed(bytes, parseBytes(bytes, indexCheckpoint(bytes.byteLength, key)));
}

/** What a file of any format holds, before any value is read. */
export function* indexCheckpoint(size: number, key?: string): Parser<CheckpointIndex> {
  const start = yield { begin: 0, end: Math.min(size, 16) };
  return looksLikePytorch(start) ? yield* indexPytorch(size, key) : yield* indexSafetensors(size);
}

/** A checkpoint whose values stay where they are until they are asked for. */
export interface OpenCheckpoint {
  readonly format: string;
  /** Bytes of the file, or of all files. */
  readonly size: number;
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order in which they lie in the file, so that reading them in turn reads the file once, forwards. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** A tensor's values, little-endian, row-major. */
  read(name: string): Promise<Uint8Array>;
  /** The same into memory that is there already; `target` has the tensor's length. */
  readInto(name: string, target: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/**
 * Reads what a file holds. It stays open.
 *
 * @throws CheckpointError naming what is wrong
 */
export async function openCheckpoint(source: ByteSource, { key }: ReadOptions = {}): Promise<OpenCheckpoint> {
  const { format, tensors: unordered, metadata } = await parseSource(source, indexCheckpoint(source.size, key));
  const position = ({ region, offset }: { region: { at: number }; offset: number }) => region.at + offset;
  const tensors = new Map([...unordered].sort(([, a], [, b]) => position(a) - position(b)));
  const stored = (name: string) => {
    const tensor = tensors.get(name);
    if (!tensor) throw new Error(`the checkpoint has no tensor ${name}`);
    return tensor;
  };
  const read = (name: string) => parseSource(source, readStored(source.size, stored(name)));
  return {
    format,
    size: source.size,
    metadata,
    tensors,
    read,
    async readInto(name, target) {
      const tensor = stored(name);
      if (target.byteLength !== tensorBytes(tensor)) throw new RangeError(`${name} has ${tensorBytes(tensor)} bytes`);
      if (tensor.strides !== null) return target.set(await read(name));
      const begin = (await parseSource(source, locate(source.size, tensor.region))) + tensor.offset;
      await readInto(source, begin, target);
    },
    close: async () => source.close?.(),
  };
}
