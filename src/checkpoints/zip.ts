/**
 * @file The members of a zip archive, as far as PyTorch uses them: stored, not compressed.
 */
import { CheckpointError } from '../runtime/errors.ts';
import { show } from './show.ts';
import type { Parser } from './source.ts';
import type { Region } from './stored.ts';

const END_OF_DIRECTORY = 0x06054b50;
const ZIP64_LOCATOR = 0x07064b50;
const ZIP64_END = 0x06064b50;
const DIRECTORY_ENTRY = 0x02014b50;
const ALL_ONES = 0xffffffff;

/** Directories are read whole. A checkpoint of 100 000 tensors has one of 10 MB. */
const MAX_DIRECTORY_BYTES = 64 * 2 ** 20;

/**
 * Members by name, with their places in the file.
 *
 * @throws CheckpointError if the archive is damaged, or a member is compressed
 */
export function* indexZip(size: number): Parser<Map<string, Region>> {
  const { begin, end, count } = yield* findDirectory(size);
  const bytes = yield { begin, end };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const members = new Map<string, Region>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > bytes.byteLength || view.getUint32(at, true) !== DIRECTORY_ENTRY) {
      throw new CheckpointError('the zip archive is damaged: its directory ends early');
    }
    const method = view.getUint16(at + 10, true);
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const wide = zip64Fields(view, at, at + 46 + nameLength, extraLength);
    if (method !== 0) {
      throw new CheckpointError(
        `${show(name)} is compressed; PyTorch writes its members stored. Save the file anew with torch.save`,
      );
    }
    if (wide.packed !== wide.size) throw new CheckpointError(`${show(name)} is stored, but its two sizes differ`);
    if (members.has(name)) throw new CheckpointError(`the zip archive holds ${show(name)} twice`);
    if (wide.local + 30 + wide.size > begin)
      throw new CheckpointError(`the zip archive is cut off inside ${show(name)}`);
    members.set(name, { at: wide.local, header: 'zip', size: wide.size, elements: 0, name });
    at += 46 + nameLength + extraLength + view.getUint16(at + 32, true);
  }
  return members;
}

interface Directory {
  readonly begin: number;
  readonly end: number;
  readonly count: number;
}

/** The central directory is found from the end of the file, behind a comment of at most 64 KiB. */
function* findDirectory(size: number): Parser<Directory> {
  const start = Math.max(0, size - 22 - 0xffff - 20);
  const tail = yield { begin: start, end: size };
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  for (let at = view.byteLength - 22; at >= 0; at--) {
    if (view.getUint32(at, true) !== END_OF_DIRECTORY) continue;
    if (at < 20 || view.getUint32(at - 20, true) !== ZIP64_LOCATOR) {
      return checkDirectory({
        begin: view.getUint32(at + 16, true),
        end: start + at,
        count: view.getUint16(at + 10, true),
      });
    }
    const end = Number(view.getBigUint64(at - 12, true));
    const wrong = 'the zip archive is damaged: its 64-bit directory is not where it should be';
    if (end + 56 > size) throw new CheckpointError(wrong);
    const record = yield { begin: end, end: end + 56 };
    const wide = new DataView(record.buffer, record.byteOffset, 56);
    if (wide.getUint32(0, true) !== ZIP64_END) throw new CheckpointError(wrong);
    return checkDirectory({
      begin: Number(wide.getBigUint64(48, true)),
      end,
      count: Number(wide.getBigUint64(32, true)),
    });
  }
  throw new CheckpointError('the zip archive is cut off: it has no directory at its end');
}

function checkDirectory(directory: Directory): Directory {
  const { begin, end } = directory;
  if (begin > end) throw new CheckpointError('the zip archive is damaged: its directory lies behind its end');
  if (end - begin > MAX_DIRECTORY_BYTES) {
    throw new CheckpointError(`the zip archive has a directory of ${end - begin} bytes; a checkpoint’s is far smaller`);
  }
  return directory;
}

/** Sizes and place of a member, from the entry, or where they are too large for it from its 64-bit extra field. */
function zip64Fields(view: DataView, entry: number, extra: number, extraLength: number) {
  const fields = {
    size: view.getUint32(entry + 24, true),
    packed: view.getUint32(entry + 20, true),
    local: view.getUint32(entry + 42, true),
  };
  const end = Math.min(extra + extraLength, view.byteLength);
  for (let at = extra; at + 4 <= end; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    let field = at + 4;
    for (const name of ['size', 'packed', 'local'] as const) {
      if (fields[name] !== ALL_ONES || field + 8 > end) continue;
      fields[name] = Number(view.getBigUint64(field, true));
      field += 8;
    }
  }
  return fields;
}
