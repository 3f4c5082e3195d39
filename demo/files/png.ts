/**
 * @file PNG files with text in them (ISO/IEC 15948): 8 bits a channel, colour without alpha, or grey where all is grey.
 * The platform's own deflate does the packing, so this runs in a page and in Node alike.
 */

export interface Raster {
  readonly width: number;
  readonly height: number;
  /** RGBA, row by row; alpha is not kept. */
  readonly data: Uint8ClampedArray<ArrayBuffer>;
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const GREY = 0;
const COLOUR = 2;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

export function crc32(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC_TABLE[(c ^ byte) & 0xff]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** @param text entries of the file's text chunks; keys are ASCII of at most 79 characters */
export async function encodePng(
  { width, height, data }: Raster,
  text: Readonly<Record<string, string>> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  let grey = true;
  for (let i = 0; i < data.length && grey; i += 4) grey = data[i] === data[i + 1] && data[i] === data[i + 2];
  const channels = grey ? 1 : 3;
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, grey ? GREY : COLOUR, 0, 0, 0], 8);
  const stride = 1 + width * channels; // each row begins with its filter, 0 for none
  const rows = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 4 * (y * width + x);
      for (let k = 0; k < channels; k++) rows[y * stride + 1 + x * channels + k] = data[from + k]!;
    }
  }
  const packed = new Uint8Array(
    await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate'))).arrayBuffer(),
  );
  return join([
    SIGNATURE,
    chunk('IHDR', header),
    ...Object.entries(text).map(([key, value]) => textChunk(key, value)),
    chunk('IDAT', packed),
    chunk('IEND', new Uint8Array(0)),
  ]);
}

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** tEXt is Latin-1 and everybody reads it; what does not fit becomes iTXt, which is UTF-8. */
function textChunk(key: string, value: string): Uint8Array {
  if ([...value].every((c) => c.codePointAt(0)! < 256)) return chunk('tEXt', ascii(`${key}\0${value}`));
  return chunk('iTXt', join([ascii(`${key}\0\0\0\0\0`), new TextEncoder().encode(value)]));
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const framed = new Uint8Array(data.length + 12);
  const view = new DataView(framed.buffer);
  view.setUint32(0, data.length);
  framed.set(ascii(type), 4);
  framed.set(data, 8);
  view.setUint32(data.length + 8, crc32(framed.subarray(4, data.length + 8)));
  return framed;
}

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
