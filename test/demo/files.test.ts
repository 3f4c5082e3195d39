/** @file PNG and GIF files that others can read, and checkpoints that are opened or refused. */
import { readFileSync } from 'node:fs';
import { inflateSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { describeMisfit } from '../../demo/files/fit.ts';
import { encodeGif, lzw } from '../../demo/files/gif.ts';
import { describeAssumptions, describeModel, openCheckpoint } from '../../demo/files/open.ts';
import { crc32, encodePng } from '../../demo/files/png.ts';
import { readConfig } from '../../src/checkpoints/config.ts';
import { readSafetensors, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';

function pngChunks(file: Uint8Array): { type: string; data: Buffer }[] {
  const bytes = Buffer.from(file);
  const chunks = [];
  for (let at = 8; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    const body = bytes.subarray(at + 4, at + 8 + length);
    expect(bytes.readUInt32BE(at + 8 + length), 'checksum').toBe(crc32(body));
    chunks.push({ type: body.subarray(0, 4).toString('latin1'), data: body.subarray(4) });
    at += length + 12;
  }
  return chunks;
}

test('a PNG holds the pixels and the text', async () => {
  const data = new Uint8ClampedArray([1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 255, 10, 11, 12, 255]);
  const chunks = pngChunks(await encodePng({ width: 2, height: 2, data }, { Software: 'é', Class: 'Ж' }));
  expect(chunks.map(({ type }) => type)).toEqual(['IHDR', 'tEXt', 'iTXt', 'IDAT', 'IEND']);
  expect([...inflateSync(chunks[3]!.data)]).toEqual([0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12]);
  expect(chunks[1]!.data.toString('latin1')).toBe('Software\0é');
  expect(chunks[2]!.data.toString('utf8')).toBe('Class\0\0\0\0\0Ж');
  expect(crc32(Buffer.from('123456789')), 'the check value of the standard').toBe(0xcbf43926);
});

test('a grey PNG has one channel', async () => {
  const chunks = pngChunks(await encodePng({ width: 1, height: 1, data: new Uint8ClampedArray([9, 9, 9, 255]) }));
  expect([...chunks[0]!.data.subarray(8)]).toEqual([8, 0, 0, 0, 0]);
  expect([...inflateSync(chunks[1]!.data)]).toEqual([0, 9]);
});

/** GIF's LZW backwards, as the standard describes it. */
function unpack(bytes: readonly number[]): number[] {
  let [bits, held, at, width] = [0, 0, 0, 9];
  let table: number[][] = [];
  const reset = () => {
    table = Array.from({ length: 258 }, (_, i) => (i < 256 ? [i] : []));
    width = 9;
  };
  const read = () => {
    while (bits < width) {
      held |= bytes[at++]! << bits;
      bits += 8;
    }
    const code = held & ((1 << width) - 1);
    held >>>= width;
    bits -= width;
    return code;
  };
  reset();
  const out: number[] = [];
  let before: number[] | null = null;
  for (;;) {
    const code = read();
    if (code === 257) return out;
    if (code === 256) {
      reset();
      before = null;
      continue;
    }
    const entry: number[] = table[code] ?? [...before!, before![0]!];
    if (before) table.push([...before, entry[0]!]);
    if (table.length === 1 << width && width < 12) width++;
    out.push(...entry);
    before = entry;
  }
}

test('LZW gives back what went in, through growth and through a full table', () => {
  let state = 1;
  const noisy = Uint8Array.from({ length: 30_000 }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state >>> 24;
  });
  const smooth = Uint8Array.from({ length: 30_000 }, (_, i) => (i >> 6) & 0xff);
  for (const symbols of [noisy, smooth, new Uint8Array(5000), Uint8Array.of(7), noisy.subarray(0, 255)]) {
    expect(unpack(lzw(symbols))).toEqual([...symbols]);
  }
});

test('a GIF has all frames, with their times, in its size', () => {
  const frame = (value: number) => ({ data: new Uint8ClampedArray(3 * 2 * 4).fill(value), delay: 12 });
  const gif = Buffer.from(encodeGif(3, 2, [frame(0), frame(128), frame(255)]));
  expect(gif.subarray(0, 6).toString()).toBe('GIF89a');
  expect([gif.readUInt16LE(6), gif.readUInt16LE(8)]).toEqual([3, 2]);
  expect([...gif.subarray(13 + 128 * 3, 16 + 128 * 3)], 'grey keeps all its levels').toEqual([128, 128, 128]);
  const controls = gif.toString('latin1').split('\x21\xf9\x04').slice(1);
  expect(controls.map((part) => part.charCodeAt(1))).toEqual([12, 12, 12]);
  expect(gif.at(-1)).toBe(0x3b);
});

const unetBytes = readFileSync(UNET_FILE);
const classifierBytes = readFileSync(CLASSIFIER_FILE);
const unetConfig = readConfig(readSafetensors(unetBytes));
if (unetConfig.kind !== 'unet') throw new Error('the shipped U-Net is none');
const inUse = { unet: unetConfig };
const open = (...files: [string, Uint8Array][]) =>
  openCheckpoint(
    files.map(([name, bytes]) => ({ name, bytes })),
    inUse,
  );

test('shipped checkpoints are what they are', () => {
  expect(describeModel(open(['a.safetensors', unetBytes]).config)).toBe(
    '28×28 grey, base 32, mult 1 2 2, 10 classes, null class, learned variance',
  );
  expect(open(['c.safetensors', classifierBytes]).config.kind).toBe('classifier');
});

test('a refusal says what was found and what to do', () => {
  const tensors = readSafetensors(unetBytes);
  const rewrite = (config: object | null, names = [...tensors.tensors.keys()]) => {
    const entries = names.map((name) => {
      const { dtype, shape, bytes } = tensors.tensors.get(name)!;
      return [name, { dtype, shape, data: bytes.slice() }] as const;
    });
    const metadata: Record<string, string> = config ? { config: JSON.stringify(config) } : {};
    return writeSafetensors(Object.fromEntries(entries), metadata);
  };
  const config = JSON.parse(tensors.metadata.get('config')!) as Record<string, unknown> & { model: object };
  const bare = open(['x.safetensors', rewrite(null)]);
  expect(bare.config).toMatchObject({
    kind: 'unet',
    model: { model_channels: 32, channel_mult: [1, 2, 2], num_classes: 11 },
  });
  expect(describeAssumptions(bare.assumptions)).toMatch(/does not say .*image_size \d+.*these are assumed/);
  expect(describeAssumptions(open(['a.safetensors', unetBytes]).assumptions)).toBe('');
  expect(open(['x.pt', rewrite(null)], ['x.json', Buffer.from(JSON.stringify(config))]).config.kind).toBe('unet');
  expect(() => open(['y', rewrite({ ...config, model: { ...config.model, channel_mult: [1, 2, 3] } })])).toThrow(
    /should have shape/,
  );
  expect(() => open(['z', rewrite(config, [...tensors.tensors.keys()].slice(1))])).toThrow(/is missing/);
  expect(() => open(['d', rewrite({ ...config, diffusion: undefined })])).toThrow(
    /does not say which diffusion process/,
  );
  expect(() => open(['a', unetBytes], ['b', unetBytes])).toThrow(/expected one checkpoint/);
  expect(() => open(['n', Buffer.from('nothing of the kind')])).toThrow(/safetensors/);
});

test('a classifier of another size does not fit', () => {
  const classifier = readConfig(readSafetensors(classifierBytes));
  if (classifier.kind !== 'classifier') throw new Error('the shipped classifier is none');
  expect(describeMisfit(unetConfig, classifier)).toBeNull();
  const larger = { ...classifier, model: { ...classifier.model, in_channels: 3, image_size: 64 } };
  expect(describeMisfit(unetConfig, larger)).toBe(
    'the classifier takes 3 channels of 64×64, the U-Net makes one channel of 28×28',
  );
  const fewer = { ...classifier, model: { ...classifier.model, out_channels: 5 } };
  expect(describeMisfit(unetConfig, fewer)).toBe('the classifier knows 5 classes, the U-Net 10');
});
