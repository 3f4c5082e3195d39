/**
 * @file The members of a zip archive, as far as PyTorch uses them: stored, not compressed, at most 4 GiB.
 */
import { CheckpointError } from '../runtime/errors.ts';

const END_OF_DIRECTORY = 0x06054b50;
const ZIP64_LOCATOR = 0x07064b50;
const ZIP64_END = 0x06064b50;
const DIRECTORY_ENTRY = 0x02014b50;
const LOCAL_HEADER = 0x04034b50;
const ALL_ONES = 0xffffffff;

/**
 * Members by name, as views of the file.
 *
 * @throws CheckpointError if the archive is damaged, or a member is compressed
 */
export function readZip(bytes: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { offset, count } = findDirectory(view);
  const members = new Map<string, Uint8Array>();
  let at = offset;
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
        `${name} is compressed; PyTorch writes its members stored. Save the file anew with torch.save`,
      );
    }
    if (wide.packed !== wide.size) throw new CheckpointError(`${name} is stored, but its two sizes differ`);
    if (members.has(name)) throw new CheckpointError(`the zip archive holds ${name} twice`);
    members.set(name, memberData(bytes, view, name, wide.local, wide.size));
    at += 46 + nameLength + extraLength + view.getUint16(at + 32, true);
  }
  return members;
}

/** The central directory is found from the end of the file, behind a comment of at most 64 KiB. */
function findDirectory(view: DataView): { offset: number; count: number } {
  const last = view.byteLength - 22;
  for (let at = last; at >= Math.max(0, last - 0xffff); at--) {
    if (view.getUint32(at, true) !== END_OF_DIRECTORY) continue;
    const count = view.getUint16(at + 10, true);
    const offset = view.getUint32(at + 16, true);
    if (at < 20 || view.getUint32(at - 20, true) !== ZIP64_LOCATOR) return { offset, count };
    const end = Number(view.getBigUint64(at - 12, true));
    if (end + 56 > view.byteLength || view.getUint32(end, true) !== ZIP64_END) {
      throw new CheckpointError('the zip archive is damaged: its 64-bit directory is not where it should be');
    }
    return { offset: Number(view.getBigUint64(end + 48, true)), count: Number(view.getBigUint64(end + 32, true)) };
  }
  throw new CheckpointError('the zip archive is cut off: it has no directory at its end');
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

function memberData(bytes: Uint8Array, view: DataView, name: string, local: number, size: number): Uint8Array {
  if (local + 30 > bytes.byteLength || view.getUint32(local, true) !== LOCAL_HEADER) {
    throw new CheckpointError(`the zip archive is damaged: ${name} is not where it should be`);
  }
  const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
  if (start + size > bytes.byteLength) throw new CheckpointError(`the zip archive is cut off inside ${name}`);
  return bytes.subarray(start, start + size);
}
