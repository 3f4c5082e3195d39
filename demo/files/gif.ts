/**
 * @file Animated GIF files (GIF89a): one palette for all frames, endless repetition. Grey images keep every one of their
 * 256 levels; coloured ones are rounded to a cube of 6 x 7 x 6 colours.
 */

export interface GifFrame {
  /** RGBA, row by row; alpha is not kept. */
  readonly data: Uint8ClampedArray;
  /** How long it stays, in hundredths of a second. */
  readonly delay: number;
}

/** Levels of red, green and blue in the cube. */
const LEVELS = [6, 7, 6] as const;

export function encodeGif(width: number, height: number, frames: readonly GifFrame[]): Uint8Array<ArrayBuffer> {
  const grey = frames.every(({ data }) => isGrey(data));
  const out: number[] = [];
  const word = (value: number) => out.push(value & 0xff, value >> 8);
  const text = (value: string) => out.push(...[...value].map((c) => c.charCodeAt(0)));
  text('GIF89a');
  word(width);
  word(height);
  out.push(0xf7, 0, 0); // a global table of 256 colours of 8 bits
  for (const value of palette(grey)) out.push(value);
  out.push(0x21, 0xff, 11);
  text('NETSCAPE2.0');
  out.push(3, 1, 0, 0, 0);
  for (const { data, delay } of frames) {
    out.push(0x21, 0xf9, 4, 0);
    word(delay);
    out.push(0, 0, 0x2c);
    word(0);
    word(0);
    word(width);
    word(height);
    out.push(0, 8);
    const packed = lzw(indices(data, grey));
    for (let at = 0; at < packed.length; at += 255) {
      const block = packed.slice(at, at + 255);
      out.push(block.length);
      for (const byte of block) out.push(byte);
    }
    out.push(0);
  }
  out.push(0x3b);
  return Uint8Array.from(out);
}

function isGrey(data: Uint8ClampedArray): boolean {
  for (let i = 0; i < data.length; i += 4) if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
  return true;
}

function palette(grey: boolean): Uint8Array {
  const table = new Uint8Array(768);
  if (grey) return table.map((_, i) => Math.floor(i / 3));
  const [reds, greens, blues] = LEVELS;
  for (let i = 0; i < reds * greens * blues; i++) {
    const red = Math.floor(i / (greens * blues));
    const green = Math.floor(i / blues) % greens;
    const blue = i % blues;
    table.set(
      [(255 * red) / (reds - 1), (255 * green) / (greens - 1), (255 * blue) / (blues - 1)].map(Math.round),
      i * 3,
    );
  }
  return table;
}

function indices(data: Uint8ClampedArray, grey: boolean): Uint8Array {
  const [reds, greens, blues] = LEVELS;
  return Uint8Array.from({ length: data.length / 4 }, (_, p) => {
    const red = data[p * 4]!;
    if (grey) return red;
    const level = (value: number, levels: number) => Math.round((value / 255) * (levels - 1));
    return (level(red, reds) * greens + level(data[p * 4 + 1]!, greens)) * blues + level(data[p * 4 + 2]!, blues);
  });
}

/** GIF's variant of LZW for symbols of 8 bits: codes grow from 9 to 12 bits, low bits first. */
export function lzw(symbols: Uint8Array): number[] {
  const CLEAR = 256;
  const END = 257;
  const LAST = 4095;
  const bytes: number[] = [];
  let bits = 0;
  let held = 0;
  let width = 9;
  let next = END + 1;
  let codes = new Map<number, number>();
  const emit = (code: number) => {
    held |= code << bits;
    bits += width;
    while (bits >= 8) {
      bytes.push(held & 0xff);
      held >>>= 8;
      bits -= 8;
    }
  };
  emit(CLEAR);
  let prefix = -1;
  for (const symbol of symbols) {
    if (prefix < 0) {
      prefix = symbol;
      continue;
    }
    const key = prefix * 256 + symbol;
    const known = codes.get(key);
    if (known !== undefined) {
      prefix = known;
      continue;
    }
    emit(prefix);
    if (next > LAST) {
      emit(CLEAR);
      codes = new Map();
      next = END + 1;
      width = 9;
    } else {
      // The decoder is one entry behind, so the width grows when the new code does not fit any more.
      if (next === 1 << width) width++;
      codes.set(key, next++);
    }
    prefix = symbol;
  }
  if (prefix >= 0) emit(prefix);
  // The decoder adds an entry for the last code too, and may grow before it reads the end.
  if (next === 1 << width && width < 12) width++;
  emit(END);
  if (bits > 0) bytes.push(held & 0xff);
  return bytes;
}
