/**
 * Mutates good files of every format and reads what comes out. Each must be read, or refused with the typed error; in no
 * time, and without more memory than the file could fill.
 *
 * PILOTWAVE_FUZZ_SECONDS=600 runs longer, PILOTWAVE_FUZZ_SEED=n begins elsewhere. A failure names file, seed and case.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { modelParameters } from '../../src/checkpoints/config.ts';
import { convertCheckpoint } from '../../src/checkpoints/convert.ts';
import { describeCheckpoint } from '../../src/checkpoints/describe.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { openCheckpoint, readCheckpoint } from '../../src/checkpoints/read.ts';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { openShards } from '../../src/checkpoints/shards.ts';
import { memorySource } from '../../src/checkpoints/source.ts';
import { CheckpointError, OptionError } from '../../src/runtime/errors.ts';
import { archive, legacy, op } from './torch_files.ts';

const SECONDS = Number(process.env['PILOTWAVE_FUZZ_SECONDS'] ?? 4);
/** Of each file, however slow the machine is. */
const LEAST_CASES = 200;
const SEED = Number(process.env['PILOTWAVE_FUZZ_SEED'] ?? 1);

/** Mulberry32: numbers from 0 to before 1, the same for the same seed. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const golden = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(new URL(`../golden/checkpoints/${name}`, import.meta.url)));

/** A whole small model that says what it is, with int8 weights. */
async function model(): Promise<Uint8Array> {
  const config = parseFlags('--image_size 8 --channel_mult 1 --num_channels 32 --num_res_blocks 1').config('unet');
  const tensors = Object.fromEntries(
    modelParameters(config).map(({ name, shape }) => {
      const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i));
      return [name, { dtype: 'F32' as const, shape, data }];
    }),
  );
  const parts: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    parts.push(bytes.slice());
  };
  await convertCheckpoint(await openCheckpoint(memorySource(writeSafetensors(tensors))), write, {
    format: 'int8',
    config,
  });
  return new Uint8Array(Buffer.concat(parts));
}

const storage = op.storage('HalfStorage', '0', 8);
const nested = op.dict({ epoch: op.int(3), net: op.dict({ w: op.tensor(storage, 1, [3, 2], [1, 3]) }) });

const FILES: Readonly<Record<string, Uint8Array | Promise<Uint8Array>>> = {
  'a zip archive': golden('small_odd_zip.pt'),
  'a newer zip archive': golden('small_views_newer_zip.pt'),
  'a nested dictionary': archive(nested, { 0: new Uint16Array(8) }),
  'a legacy file': golden('small_odd_legacy.pt'),
  'a small legacy file': legacy(nested, { 0: { data: new Uint16Array(8), length: 8 } }),
  'a safetensors file': golden('small_odd_reference.safetensors'),
  'a model in int8': model(),
};

/** Numbers that break arithmetic, little-endian. */
const NASTY = [
  [0xff],
  [0x7f],
  [0xff, 0xff],
  [0xff, 0xff, 0xff, 0x7f],
  [0xff, 0xff, 0xff, 0xff],
  [0, 0, 0, 0x80],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
  [0, 0, 0, 0, 0, 0, 0x10, 0],
  [0, 0, 0, 0, 0, 0, 0, 0],
];

/** Pieces of text that mean something in a header. */
const WORDS = [
  '9',
  '-1',
  '1e99',
  '{',
  '}',
  '[',
  ']',
  '"',
  ',',
  ':',
  'null',
  '\\u0000',
  '"F64"',
  '"I8"',
  '[0,0]',
  '__proto__',
];

function mutate(good: Uint8Array, next: () => number): Uint8Array {
  let bytes: Uint8Array<ArrayBuffer> = good.slice();
  const pick = (n: number) => Math.floor(next() * n);
  // What describes lies at the beginning and at the end; the data between is rarely worth a change.
  const place = () => {
    const span = Math.min(bytes.length, 3000);
    return bytes.length === 0 ? 0 : next() < 0.5 ? pick(span) : bytes.length - 1 - pick(span);
  };
  const splice = (at: number, remove: number, insert: ArrayLike<number>) => {
    const changed = new Uint8Array(bytes.length - remove + insert.length);
    changed.set(bytes.subarray(0, at));
    changed.set(Array.from(insert), at);
    changed.set(bytes.subarray(at + remove), at + insert.length);
    bytes = changed;
  };
  for (let i = 1 + pick(4); i > 0; i--) {
    const at = place();
    const rest = bytes.length - at;
    switch (pick(8)) {
      case 0:
        if (rest > 0) bytes[at] = pick(256);
        break;
      case 1:
        if (rest > 0) bytes[at]! ^= 1 << pick(8);
        break;
      case 2: {
        const nasty = NASTY[pick(NASTY.length)]!;
        if (rest >= nasty.length) bytes.set(nasty, at);
        break;
      }
      case 3:
        splice(at, 0, new TextEncoder().encode(WORDS[pick(WORDS.length)]));
        break;
      case 4:
        splice(at, Math.min(rest, 1 + pick(16)), []);
        break;
      case 5:
        splice(at, 0, bytes.slice(at, at + 1 + pick(64)));
        break;
      case 6: {
        const from = place();
        bytes.copyWithin(at, from, from + pick(32));
        break;
      }
      default:
        if (next() < 0.2) bytes = bytes.slice(0, at);
        else splice(at, Math.min(rest, 1 + pick(3)), [pick(256), pick(256)]);
    }
  }
  return bytes;
}

/** Counts what typed arrays of a given length take: views of memory that is there already cost nothing. */
const counted = { bytes: 0 };
const ORIGINALS = { Uint8Array, Float32Array, Float64Array, Uint16Array, Int8Array };
beforeAll(() => {
  for (const [name, Original] of Object.entries(ORIGINALS)) {
    const Counting = new Proxy(Original, {
      construct(target, args, newTarget) {
        if (typeof args[0] === 'number') counted.bytes += args[0] * target.BYTES_PER_ELEMENT;
        return Reflect.construct(target, args, newTarget);
      },
    });
    Object.assign(globalThis, { [name]: Counting });
  }
});
afterAll(() => {
  Object.assign(globalThis, ORIGINALS);
});

async function readAll(bytes: Uint8Array): Promise<'read' | 'refused'> {
  try {
    const open = await openCheckpoint(memorySource(bytes));
    for (const name of open.tensors.keys()) await open.read(name);
    expect(readCheckpoint(bytes).tensors.size).toBe(open.tensors.size);
    describeCheckpoint(open);
    return 'read';
  } catch (error) {
    if (error instanceof CheckpointError) return 'refused';
    throw error;
  }
}

describe('mutated files are read or refused', () => {
  const names = Object.keys(FILES);

  test.each(names)(
    '%s',
    async (name) => {
      const good = await FILES[name]!;
      expect(await readAll(good)).toBe('read');
      const share = (SECONDS * 1000) / names.length;
      const started = performance.now();
      const tally = { read: 0, refused: 0 };
      let slowest = 0;
      for (let i = 0; i < LEAST_CASES || performance.now() - started < share; i++) {
        const bytes = mutate(good, random(SEED * 1_000_003 + i));
        const before = performance.now();
        counted.bytes = 0;
        try {
          tally[await readAll(bytes)]++;
        } catch (error) {
          throw new Error(`${name}, seed ${SEED}, case ${i}: ${error}`, { cause: error });
        }
        slowest = Math.max(slowest, performance.now() - before);
        // Once for each of the two ways of reading.
        expect(counted.bytes, `${name}, seed ${SEED}, case ${i}`).toBeLessThanOrEqual(
          2 * Math.max(2 ** 16, 2 * bytes.length),
        );
      }
      expect(tally.refused).toBeGreaterThan(20);
      expect(tally.read).toBeGreaterThan(0);
      expect(slowest).toBeLessThan(2000);
    },
    1000 * SECONDS + 60_000,
  );

  test('an index of shards', async () => {
    const good = new TextEncoder().encode(
      '{"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}',
    );
    const shard = (name: string) =>
      writeSafetensors({ [name]: { dtype: 'F32', shape: [1], data: new Float32Array(1) } });
    const open = async (file: string) => memorySource(shard(file === 'one.safetensors' ? 'a' : 'b'));
    expect((await openShards(new TextDecoder().decode(good), open)).tensors.size).toBe(2);
    for (let i = 0; i < 1000; i++) {
      try {
        await openShards(new TextDecoder().decode(mutate(good, random(SEED * 7919 + i))), open);
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw new Error(`seed ${SEED}, case ${i}: ${error}`, { cause: error });
      }
    }
  });

  test('a line of flags', () => {
    const good = new TextEncoder().encode('--image_size 64 --num_channels 192 --channel_mult "1,2" --class_cond True');
    for (let i = 0; i < 2000; i++) {
      try {
        const flags = parseFlags(new TextDecoder().decode(mutate(good, random(SEED * 104_729 + i))));
        for (const kind of flags.kinds) flags.config(kind);
      } catch (error) {
        if (!(error instanceof OptionError)) throw new Error(`seed ${SEED}, case ${i}: ${error}`, { cause: error });
      }
    }
  });
});

describe('a small file that claims terabytes is refused at once', () => {
  const claim = (header: string) => {
    const text = new TextEncoder().encode(header);
    const bytes = new Uint8Array(1000);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    return bytes;
  };

  test.each<[string, () => Uint8Array]>([
    ['a header length', () => Uint8Array.of(0, 0, 0, 0, 0, 16, 0, 0, 0x7b, 0x7d)],
    ['a shape', () => claim('{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}')],
    ['a storage', () => golden('bad_storage_huge.pt')],
    [
      'a tensor of stride 0',
      () => archive(op.dict({ w: op.tensor(storage, 0, [2 ** 20, 2 ** 20], [0, 0]) }), { 0: new Uint16Array(8) }),
    ],
    [
      'a model',
      () => {
        const config = JSON.stringify({
          kind: 'unet',
          model: {
            image_size: 64,
            in_channels: 3,
            model_channels: 1e9,
            out_channels: 3,
            num_res_blocks: 1e9,
            attention_resolutions: [],
          },
        });
        return claim(JSON.stringify({ __metadata__: { config } }));
      },
    ],
  ])('%s', async (_what, make) => {
    const bytes = make();
    counted.bytes = 0;
    const started = performance.now();
    let said = '';
    try {
      const open = await openCheckpoint(memorySource(bytes));
      said = describeCheckpoint(open).problem ?? '';
      for (const name of open.tensors.keys()) await open.read(name);
    } catch (error) {
      expect(error).toBeInstanceOf(CheckpointError);
      said = (error as Error).message;
    }
    expect(said).not.toBe('');
    expect(performance.now() - started).toBeLessThan(200);
    expect(counted.bytes).toBeLessThan(10_000);
  });
});
