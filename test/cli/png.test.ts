import { crc32, deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { fitted } from '../../src/cli/pictures.ts';
import { decodePng, encodePng } from '../../src/cli/png.ts';

function chunk(type: string, body: Uint8Array): Buffer {
  const data = Buffer.concat([Buffer.from(type, 'latin1'), body]);
  const framed = Buffer.alloc(data.length + 8);
  framed.writeUInt32BE(body.length, 0);
  framed.set(data, 4);
  framed.writeUInt32BE(crc32(data), data.length + 4);
  return framed;
}

interface Parts {
  width: number;
  height: number;
  depth: number;
  colour: number;
  interlace?: number;
  /** With the filter byte of each row. */
  rows: ArrayLike<number>;
  palette?: number[];
  alphas?: number[];
}

function png({ width, height, depth, colour, interlace = 0, rows, palette, alphas }: Parts): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colour, 0, 0, interlace], 8);
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk('IHDR', header),
    ...(palette ? [chunk('PLTE', Uint8Array.from(palette))] : []),
    ...(alphas ? [chunk('tRNS', Uint8Array.from(alphas))] : []),
    chunk('IDAT', deflateSync(Uint8Array.from(rows))),
    chunk('IEND', new Uint8Array()),
  ]);
}

describe('reading PNG', () => {
  test('what was written comes back', () => {
    const pixels = Uint8Array.from({ length: 5 * 4 * 3 }, (_, i) => (i * 37) % 256);
    expect(decodePng(encodePng({ width: 5, height: 4, pixels }, { Comment: 'seed 0' }))).toEqual({
      width: 5,
      height: 4,
      pixels,
    });
  });

  test('every filter is undone', () => {
    const [width, height] = [4, 5];
    const stride = width * 3;
    const pixels = Uint8Array.from({ length: height * stride }, (_, i) => (i * i * 7 + 13) % 256);
    const rows: number[] = [];
    for (let y = 0; y < height; y++) {
      rows.push(y); // row y with filter y: none, left, above, mean, Paeth
      for (let i = 0; i < stride; i++) {
        const a = i >= 3 ? pixels[y * stride + i - 3]! : 0;
        const b = y > 0 ? pixels[(y - 1) * stride + i]! : 0;
        const c = i >= 3 && y > 0 ? pixels[(y - 1) * stride + i - 3]! : 0;
        const nearest = [a, b, c].sort((p, q) => Math.abs(a + b - c - p) - Math.abs(a + b - c - q))[0]!;
        const guess = [0, a, b, Math.floor((a + b) / 2), nearest][y]!;
        rows.push((pixels[y * stride + i]! - guess) & 255);
      }
    }
    expect(decodePng(png({ width, height, depth: 8, colour: 2, rows })).pixels).toEqual(pixels);
  });

  test.each<[string, Parts, number[]]>([
    ['grey', { width: 2, height: 1, depth: 8, colour: 0, rows: [0, 7, 200] }, [7, 7, 7, 200, 200, 200]],
    [
      'grey of 1 bit',
      { width: 3, height: 1, depth: 1, colour: 0, rows: [0, 0b10100000] },
      [255, 255, 255, 0, 0, 0, 255, 255, 255],
    ],
    ['grey of 16 bits', { width: 1, height: 1, depth: 16, colour: 0, rows: [0, 90, 255] }, [90, 90, 90]],
    [
      'grey, half transparent over white',
      { width: 1, height: 1, depth: 8, colour: 4, rows: [0, 0, 51] },
      [204, 204, 204],
    ],
    ['colour and alpha', { width: 1, height: 1, depth: 8, colour: 6, rows: [0, 10, 20, 30, 0] }, [255, 255, 255]],
    [
      'palette of 2 bits, one colour transparent',
      {
        width: 3,
        height: 1,
        depth: 2,
        colour: 3,
        rows: [0, 0b00011000],
        palette: [1, 2, 3, 4, 5, 6, 7, 8, 9],
        alphas: [255, 0],
      },
      [1, 2, 3, 255, 255, 255, 7, 8, 9],
    ],
  ])('%s', (_name, parts, expected) => {
    expect([...decodePng(png(parts)).pixels]).toEqual(expected);
  });

  const good = { width: 2, height: 1, depth: 8, colour: 0, rows: [0, 7, 200] };
  test.each<[string, Buffer, string]>([
    ['another file', Buffer.from('GIF89a'), 'expected a PNG file'],
    ['half a file', png(good).subarray(0, 50), 'truncated'],
    ['a changed byte', Buffer.from(png(good)).fill(1, 20, 21), "checksum of the PNG file's IHDR chunk"],
    ['interlacing', png({ ...good, interlace: 1 }), 'interlaced'],
    ['a terabyte of pixels', png({ ...good, width: 2 ** 20, height: 2 ** 20 }), 'found 1048576 x 1048576'],
    ['too few data', png({ ...good, rows: [0, 7] }), 'should hold 3 bytes of picture data, found 2'],
    ['too many data', png({ ...good, rows: [0, 7, 8, 9] }), 'damaged'],
    ['an unknown filter', png({ ...good, rows: [9, 7, 8] }), 'filter 9'],
    ['a colour beyond the palette', png({ ...good, colour: 3, palette: [1, 2, 3], rows: [0, 0, 1] }), 'does not have'],
  ])('%s is refused', (_name, file, message) => {
    expect(() => decodePng(file)).toThrow(message);
  });
});

describe('fitting a picture to a model', () => {
  test('crops the centre and takes means', () => {
    // 6 x 4: the outer columns are cut off, each 2 x 2 block becomes a pixel.
    const pixels = Uint8Array.from({ length: 6 * 4 * 3 }, (_, i) => Math.floor(i / 3));
    const found = fitted({ width: 6, height: 4, pixels }, { channels: 3, height: 2, width: 2 });
    const mean = (x: number, y: number) => [0, 1, 6, 7].reduce((sum, d) => sum + y * 6 + x + d, 0) / 4 / 127.5 - 1;
    const expected = [mean(1, 0), mean(3, 0), mean(1, 2), mean(3, 2)];
    [...found].forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i % 4]!, 6);
    });
  });

  test('enlarges, and makes grey of colours', () => {
    const pixels = Uint8Array.from([255, 0, 0]);
    const found = fitted({ width: 1, height: 1, pixels }, { channels: 1, height: 2, width: 2 });
    [...found].forEach((value) => {
      expect(value).toBeCloseTo((0.299 * 255) / 127.5 - 1, 6);
    });
  });
});
