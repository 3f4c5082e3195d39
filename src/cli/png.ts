/**
 * @file Writes and reads PNG files (ISO/IEC 15948). Written are 8 bits a channel without interlacing; read is any colour
 * type and depth that is not interlaced.
 */
import { crc32, deflateSync, inflateSync } from 'node:zlib';
import { CheckpointError } from '../runtime/errors.ts';

export interface Raster {
  readonly width: number;
  readonly height: number;
  /** RGB, row by row. */
  readonly pixels: Uint8Array;
}

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const TRUE_COLOUR = 2;

/** @param text entries of the file's text chunks: Latin-1, keys of at most 79 characters */
export function encodePng({ width, height, pixels }: Raster, text: Readonly<Record<string, string>> = {}): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, TRUE_COLOUR, 0, 0, 0], 8);
  const rows = Buffer.alloc(height * (1 + width * 3)); // each row begins with its filter type, 0 for none
  for (let y = 0; y < height; y++) {
    rows.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), y * (1 + width * 3) + 1);
  }
  const texts = Object.entries(text).map(([key, value]) => chunk('tEXt', Buffer.from(`${key}\0${value}`, 'latin1')));
  const data = chunk('IDAT', deflateSync(rows, { level: 9 }));
  return Buffer.concat([SIGNATURE, chunk('IHDR', header), ...texts, data, chunk('IEND', Buffer.alloc(0))]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

/** Samples a pixel by colour type: grey, RGB, palette, grey and alpha, RGB and alpha. */
const SAMPLES: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const [GREY, PALETTE, GREY_ALPHA] = [0, 3, 4];

/** A picture of more pixels is refused before memory is taken. */
const MAX_PIXELS = 2 ** 26;

export const isPng = (file: Uint8Array): boolean => SIGNATURE.every((byte, i) => file[i] === byte);

/**
 * Transparent pixels are laid over white.
 *
 * @throws CheckpointError if the file is damaged, interlaced, or very large
 */
export function decodePng(file: Buffer): Raster {
  if (!isPng(file)) throw new CheckpointError('expected a PNG file');
  let header: Buffer | null = null;
  let palette: Buffer = Buffer.alloc(0);
  let alphas: Buffer = Buffer.alloc(0);
  const data: Buffer[] = [];
  for (let at = SIGNATURE.length; ; ) {
    if (at + 12 > file.length) throw new CheckpointError('the PNG file is truncated');
    const size = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    if (at + 12 + size > file.length) throw new CheckpointError(`the PNG file is truncated in its ${type} chunk`);
    const body = file.subarray(at + 8, at + 8 + size);
    if (crc32(file.subarray(at + 4, at + 8 + size)) !== file.readUInt32BE(at + 8 + size)) {
      throw new CheckpointError(`the checksum of the PNG file's ${type} chunk is wrong`);
    }
    if (type === 'IHDR') header = body;
    else if (type === 'PLTE') palette = body;
    else if (type === 'tRNS') alphas = body;
    else if (type === 'IDAT') data.push(body);
    else if (type === 'IEND') break;
    at += 12 + size;
  }
  if (header?.length !== 13) throw new CheckpointError('the PNG file has no header');
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const [depth, colour, , , interlaced] = header.subarray(8) as unknown as [number, number, number, number, number];
  const samples = SAMPLES[colour];
  if (samples === undefined || ![1, 2, 4, 8, 16].includes(depth)) {
    throw new CheckpointError(`no PNG file has colour type ${colour} at ${depth} bits`);
  }
  if (interlaced !== 0) throw new CheckpointError('the PNG file is interlaced; save it without');
  if (width * height === 0 || width * height > MAX_PIXELS) {
    throw new CheckpointError(`expected a PNG file of 1 to ${MAX_PIXELS} pixels, found ${width} x ${height}`);
  }
  const stride = Math.ceil((width * samples * depth) / 8);
  const rows = unfilter(inflate(data, height * (stride + 1)), height, stride, Math.max(1, (samples * depth) >> 3));

  const pixels = new Uint8Array(width * height * 3);
  const most = 2 ** Math.min(depth, 8) - 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sample = (i: number): number => {
        const bit = (x * samples + i) * depth;
        const byte = rows[y * stride + (bit >> 3)]!;
        return depth >= 8 ? byte : (byte >> (8 - depth - (bit & 7))) & most;
      };
      let rgb: number[];
      let alpha = 255;
      if (colour === PALETTE) {
        const index = sample(0);
        if (index * 3 + 2 >= palette.length) throw new CheckpointError('the PNG file names a colour it does not have');
        rgb = [...palette.subarray(index * 3, index * 3 + 3)];
        alpha = alphas[index] ?? 255;
      } else if (colour === GREY || colour === GREY_ALPHA) {
        rgb = Array<number>(3).fill((sample(0) / most) * 255);
        if (colour === GREY_ALPHA) alpha = (sample(1) / most) * 255;
      } else {
        rgb = [sample(0), sample(1), sample(2)];
        if (samples === 4) alpha = sample(3);
      }
      rgb.forEach((value, c) => {
        pixels[(y * width + x) * 3 + c] = Math.round((value * alpha + 255 * (255 - alpha)) / 255);
      });
    }
  }
  return { width, height, pixels };
}

function inflate(parts: readonly Buffer[], size: number): Buffer {
  let data: Buffer;
  try {
    data = inflateSync(Buffer.concat(parts), { maxOutputLength: size });
  } catch {
    throw new CheckpointError('the PNG file’s picture data are damaged');
  }
  if (data.length !== size) {
    throw new CheckpointError(`the PNG file should hold ${size} bytes of picture data, found ${data.length}`);
  }
  return data;
}

/** Undoes the filter of each row. @param step bytes from a pixel to the one left of it */
function unfilter(data: Buffer, height: number, stride: number, step: number): Uint8Array {
  const rows = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const filter = data[y * (stride + 1)]!;
    if (filter > 4) throw new CheckpointError(`no PNG file has filter ${filter}`);
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const left = i >= step ? rows[at - step]! : 0;
      const above = y > 0 ? rows[at - stride]! : 0;
      const corner = i >= step && y > 0 ? rows[at - stride - step]! : 0;
      const guess = [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter]!;
      rows[at] = data[y * (stride + 1) + 1 + i]! + guess;
    }
  }
  return rows;
}

function paeth(left: number, above: number, corner: number): number {
  const guess = left + above - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - above), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}
