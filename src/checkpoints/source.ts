/**
 * @file Where a checkpoint's bytes come from, and how parsers ask for them.
 *
 * A parser is a generator: it yields the range of bytes it wants next and is given them. So one parser serves a file in
 * memory (at once), a file on disk and a file behind a URL (asynchronously, by ranges), and never needs the whole file.
 */
import { CheckpointError } from '../runtime/errors.ts';

/** A file of known size that can be read in parts. */
export interface ByteSource {
  /** Bytes. */
  readonly size: number;
  /** The bytes from `begin` to before `end`, which lie within the file. The result may be a view; it is never written. */
  read(begin: number, end: number): Promise<Uint8Array>;
  /** Frees what reading needs. The source is not used again. */
  close?(): Promise<void>;
}

export interface ByteRange {
  readonly begin: number;
  readonly end: number;
}

/** Yields ranges within the file, is given their bytes, and returns what it made of them. */
export type Parser<T> = Generator<ByteRange, T, Uint8Array>;

/** Runs a parser over bytes in memory; what it is given are views. */
export function parseBytes<T>(bytes: Uint8Array, parser: Parser<T>): T {
  let step = parser.next();
  while (!step.done) {
    const { begin, end } = checked(step.value, bytes.byteLength);
    step = parser.next(bytes.subarray(begin, end));
  }
  return step.value;
}

/** Runs a parser over a source. */
export async function parseSource<T>(source: ByteSource, parser: Parser<T>): Promise<T> {
  let step = parser.next();
  while (!step.done) {
    const { begin, end } = checked(step.value, source.size);
    step = parser.next(await source.read(begin, end));
  }
  return step.value;
}

/** Parsers check before they ask; this keeps a mistake of theirs from becoming an allocation. */
function checked(range: ByteRange, size: number): ByteRange {
  const { begin, end } = range;
  if (begin >= 0 && begin <= end && end <= size) return range;
  throw new CheckpointError(`the file is cut off: bytes ${begin} to ${end} are asked of ${size}`);
}

/** Asks for `length` bytes at `begin`. @throws CheckpointError if the file, called `what`, ends before */
export function* take(size: number, begin: number, length: number, what: string): Parser<Uint8Array> {
  if (!(begin >= 0 && length >= 0 && begin + length <= size)) {
    throw new CheckpointError(
      `the file is cut off inside ${what}: it should go on to byte ${begin + length}, has ${size}`,
    );
  }
  return yield { begin, end: begin + length };
}

/** Bytes in memory as a source. */
export function memorySource(file: ArrayBuffer | Uint8Array): ByteSource {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return { size: bytes.byteLength, read: async (begin, end) => bytes.subarray(begin, end) };
}

/** The largest piece that is read at once where the place it goes to is already there. */
const PIECE_BYTES = 4 * 2 ** 20;

/** Reads `target.byteLength` bytes from `begin` on, in pieces, so that they are never in memory twice. */
export async function readInto(source: ByteSource, begin: number, target: Uint8Array): Promise<void> {
  for (let at = 0; at < target.byteLength; at += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, target.byteLength - at);
    target.set(await source.read(begin + at, begin + at + length), at);
  }
}
