import { inflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { columnsFor, drawSheet } from '../../src/cli/contact_sheet.ts';
import { drawText, textWidth } from '../../src/cli/font.ts';
import { encodePng } from '../../src/cli/png.ts';
import { imageBytes } from '../../src/diffusion/image.ts';

describe('png', () => {
  /** Chunks by type, with their checksums verified by an independent CRC. */
  function chunks(file: Buffer): Map<string, Buffer> {
    expect([...file.subarray(0, 8)]).toEqual([137, 80, 78, 71, 13, 10, 26, 10]);
    const found = new Map<string, Buffer>();
    for (let at = 8; at < file.length; ) {
      const length = file.readUInt32BE(at);
      const body = file.subarray(at + 4, at + 8 + length);
      let crc = 0xffffffff;
      for (const byte of body) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
      }
      expect(file.readUInt32BE(at + 8 + length)).toBe((crc ^ 0xffffffff) >>> 0);
      found.set(body.toString('latin1', 0, 4), body.subarray(4));
      at += 12 + length;
    }
    return found;
  }

  test('holds the pixels, and the text', () => {
    const pixels = Uint8Array.from({ length: 2 * 3 * 3 }, (_, i) => i * 10);
    const found = chunks(encodePng({ width: 2, height: 3, pixels }, { Comment: 'seed 0' }));
    expect([...found.keys()]).toEqual(['IHDR', 'tEXt', 'IDAT', 'IEND']);
    expect([...found.get('IHDR')!]).toEqual([0, 0, 0, 2, 0, 0, 0, 3, 8, 2, 0, 0, 0]);
    expect(found.get('tEXt')!.toString('latin1')).toBe('Comment\0seed 0');
    const rows = inflateSync(found.get('IDAT')!);
    expect([...rows]).toEqual([0, ...pixels.subarray(0, 6), 0, ...pixels.subarray(6, 12), 0, ...pixels.subarray(12)]);
  });
});

describe('the sheet', () => {
  const two = { samples: Float32Array.from([...Array(4).fill(1), ...Array(4).fill(-1)]), captions: ['Coat', 'Bag'] };

  test('shows each picture enlarged, in its place, and its caption in ink', () => {
    const { width, height, pixels } = drawSheet({ ...two, shape: [2, 1, 2, 2] });
    const at = (x: number, y: number) => [...pixels.subarray((y * width + x) * 3, (y * width + x) * 3 + 3)];
    expect(pixels.length).toBe(width * height * 3);
    expect(at(0, 0)).toEqual([0xf5, 0xf7, 0xf7]);
    expect(at(24, 24)).toEqual([255, 255, 255]);
    expect(at(24 + 139, 24 + 139)).toEqual([255, 255, 255]);
    expect(at(24 + 140 + 12, 24)).toEqual([0, 0, 0]);
    let ink = 0;
    for (let y = 24 + 140; y < height; y++) for (let x = 0; x < width; x++) if (at(x, y)[0] === 0x12) ink++;
    expect(ink).toBeGreaterThan(100);
  });

  test('keeps the colours apart', () => {
    const samples = Float32Array.from([1, -1, 0]);
    const { width, pixels } = drawSheet({ samples, shape: [1, 3, 1, 1], captions: [''] });
    expect([...pixels.subarray((24 * width + 24) * 3, (24 * width + 24) * 3 + 3)]).toEqual([255, 0, 127]);
  });

  test('a channel count that is no picture is refused', () => {
    expect(() => drawSheet({ samples: new Float32Array(2), shape: [1, 2, 1, 1], captions: [''] })).toThrow(
      '1 or 3 channels',
    );
  });

  test.each([
    [1, 1],
    [5, 5],
    [6, 5],
    [10, 5],
    [16, 8],
    [100, 10],
  ])('%i pictures in %i columns', (count, columns) => expect(columnsFor(count)).toBe(columns));
});

describe('captions', () => {
  const plotted = (text: string) => {
    const points: string[] = [];
    drawText(text, (x, y) => points.push(`${x},${y}`));
    return points;
  };

  test('glyphs differ, stay in their boxes, and unknown ones are question marks', () => {
    const characters = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/.,:_()%=+&'#?"];
    expect(new Set(characters.map((c) => plotted(c).join(' '))).size).toBe(characters.length);
    for (const character of characters) {
      expect(plotted(character).every((p) => p.split(',').every((v, axis) => Number(v) < (axis === 0 ? 5 : 8)))).toBe(
        true,
      );
    }
    expect(plotted('→')).toEqual(plotted('?'));
    expect(textWidth('abc')).toBe(17);
  });
});

test('bytes are truncated, not rounded, and clamped', () => {
  expect([...imageBytes([-2, -1, -0.999, 0, 0.5, 0.9999, 1, 3])]).toEqual([0, 0, 0, 127, 191, 254, 255, 255]);
});
