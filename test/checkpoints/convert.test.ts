import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { modelParameters, readConfig, writeConfig } from '../../src/checkpoints/config.ts';
import { type Converted, convertCheckpoint, type NumberFormat } from '../../src/checkpoints/convert.ts';
import { halfOfFloat, halfToNumber, numbersOf } from '../../src/checkpoints/dtypes.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { dequantise, foldScales, quantise } from '../../src/checkpoints/quantised.ts';
import { openCheckpoint } from '../../src/checkpoints/read.ts';
import { readSafetensors, type TensorToWrite, toNumbers, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { memorySource } from '../../src/checkpoints/source.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';
import { archive, op } from './torch_files.ts';

async function convertBytes(
  file: Uint8Array,
  format: NumberFormat,
  more = {},
): Promise<Converted & { file: Uint8Array }> {
  const parts: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    parts.push(bytes.slice());
  };
  const result = await convertCheckpoint(await openCheckpoint(memorySource(file)), write, { format, ...more });
  return { ...result, file: Buffer.concat(parts) };
}

const shipped = readFileSync(CLASSIFIER_FILE);

describe('formats', () => {
  test('float32 and back to what the file was: the shipped files are such', async () => {
    const wide = await convertBytes(shipped, 'f32');
    expect(wide.bytes).toBe(wide.file.byteLength);
    const before = readSafetensors(shipped);
    const after = readSafetensors(wide.file);
    expect(after.metadata.get('config')).toBe(before.metadata.get('config'));
    for (const [name, tensor] of before.tensors) {
      expect(after.tensors.get(name)!.dtype).toBe('F32');
      expect([...toNumbers(after.tensors.get(name)!)]).toEqual([...toNumbers(tensor)]);
    }
    const back = readSafetensors((await convertBytes(wide.file, 'f16')).file);
    for (const [name, tensor] of before.tensors) {
      expect(back.tensors.get(name)!.dtype).toBe(tensor.shape.length >= 2 ? 'F16' : 'F32');
      expect([...toNumbers(back.tensors.get(name)!)]).toEqual([...toNumbers(tensor)]);
    }
  });

  test('int8: matrices within half a step of each channel, everything else untouched', async () => {
    const before = readSafetensors(shipped);
    const written = await convertBytes(shipped, 'int8');
    const { tensors, metadata } = readSafetensors(written.file);
    expect(JSON.parse(metadata.get('quantization')!)).toEqual({
      format: 'int8',
      scheme: 'symmetric',
      axis: 0,
      scale: '<name>.scale',
    });
    let quantised = 0;
    for (const [name, tensor] of before.tensors) {
      const stored = tensors.get(name)!;
      const expected = toNumbers(tensor);
      if (tensor.shape.length < 2 || !name.endsWith('.weight')) {
        expect([stored.dtype, [...toNumbers(stored)]]).toEqual(['F32', [...expected]]);
        continue;
      }
      quantised++;
      expect(stored.dtype).toBe('I8');
      const scale = toNumbers(tensors.get(`${name}.scale`)!);
      const found = dequantise(stored.bytes, scale);
      const columns = expected.length / scale.length;
      const off = expected.map((value, i) => Math.abs(value - found[i]!) / scale[Math.floor(i / columns)]!);
      expect(Math.max(...off)).toBeLessThanOrEqual(0.5 + 1e-4);
      expect(Math.max(...off)).toBeGreaterThan(0.3);
    }
    expect(quantised).toBeGreaterThan(20);
    expect(written.file.byteLength).toBeLessThan(0.62 * shipped.byteLength);

    const folded = foldScales({ tensors, metadata });
    expect([...folded.keys()].sort()).toEqual([...before.tensors.keys()].sort());
    expect(folded.get('out.2.c_proj.weight')).toMatchObject({ dtype: 'I8', scale: 'out.2.c_proj.weight.scale' });
    // What is quantised already is copied.
    const again = await convertBytes(written.file, 'int8');
    const copied = readSafetensors(again.file).tensors;
    expect(copied.size).toBe(tensors.size);
    for (const [name, { dtype, bytes }] of tensors) {
      expect(copied.get(name)!.dtype).toBe(dtype);
      expect(Buffer.compare(copied.get(name)!.bytes, bytes)).toBe(0);
    }
  });

  test('a PyTorch file with views, doubles and integers', async () => {
    const storage = op.storage('DoubleStorage', '0', 6);
    const dict = op.dict({
      'a.weight': op.tensor(storage, 0, [3, 2], [1, 3]),
      'a.bias': op.tensor(storage, 0, [3], [1]),
      scalar: op.tensor(storage, 5, [], []),
      steps: op.tensor(op.storage('LongStorage', '1', 1), 0, [1], [1]),
      empty: op.tensor(storage, 0, [0, 4], [4, 1]),
    });
    const file = archive(dict, { 0: Float64Array.of(0, 1, 2, 3, 1 / 3, 1e-9), 1: BigInt64Array.of(2n ** 40n) });
    const { file: out, config, reason } = await convertBytes(file, 'f16');
    expect(config).toBeNull();
    expect(reason).toMatch(/time_embed.0.weight is missing/);
    const found = [...readSafetensors(out).tensors].map(([name, t]) => [name, t.dtype, t.shape, [...toNumbers(t)]]);
    expect(found).toEqual([
      ['steps', 'I64', [1], [2 ** 40]],
      ['a.bias', 'F32', [3], [0, 1, 2]],
      ['scalar', 'F32', [], [Math.fround(1e-9)]],
      ['a.weight', 'F16', [3, 2], [0, 3, 1, halfToNumber(halfOfFloat(1 / 3)), 2, halfToNumber(halfOfFloat(1e-9))]],
      ['empty', 'F16', [0, 4], []],
    ]);
  });

  test('a tensor larger than a piece', async () => {
    const data = Float32Array.from({ length: 3 * 700_001 }, (_, i) => Math.sin(i) * (1 + Math.floor(i / 700_001)));
    const file = writeSafetensors({ 'w.weight': { dtype: 'F32', shape: [3, 700_001], data } });
    const { tensors } = readSafetensors((await convertBytes(file, 'int8')).file);
    expect([...toNumbers(tensors.get('w.weight.scale')!)].map((s) => s * 127)).toEqual([
      expect.closeTo(1, 5),
      expect.closeTo(2, 5),
      expect.closeTo(3, 5),
    ]);
    const halves = readSafetensors((await convertBytes(file, 'f16')).file).tensors.get('w.weight')!;
    expect(toNumbers(halves).findIndex((value, i) => value !== halfToNumber(halfOfFloat(data[i]!)))).toBe(-1);
  });
});

describe('refusing', () => {
  const of = (tensor: TensorToWrite, metadata = {}) => writeSafetensors({ 'w.weight': tensor }, metadata);

  test.each<[string, NumberFormat, number, RegExp]>([
    ['beyond float16', 'f16', 1e5, /"w.weight" holds 100000, beyond the largest float16/],
    ['not a number, as int8', 'int8', Number.NaN, /"w.weight" holds NaN; int8 cannot/],
    ['infinite, as int8', 'int8', Number.POSITIVE_INFINITY, /"w.weight" holds Infinity; int8 cannot/],
  ])('a value that is %s', async (_what, format, value, message) => {
    const file = of({ dtype: 'F32', shape: [1, 2], data: Float32Array.of(1, value) });
    await expect(convertBytes(file, format)).rejects.toThrow(message);
    await expect(convertBytes(file, format)).rejects.toBeInstanceOf(CheckpointError);
  });

  test.each<[string, Record<string, string>, RegExp]>([
    ['another scheme', { quantization: '{"format":"int8","scheme":"affine"}' }, /known is/],
    ['no JSON', { quantization: 'int8' }, /known is/],
    [
      'no scale',
      { quantization: '{"format":"int8","scheme":"symmetric","axis":0,"scale":"<name>.scale"}' },
      /w.weight.scale should be F32 \[2\], found nothing/,
    ],
  ])('int8 with %s', async (_what, metadata, message) => {
    const file = of({ dtype: 'I8', shape: [2, 1], data: new Int8Array(2) }, metadata);
    await expect(convertBytes(file, 'f32')).rejects.toThrow(message);
  });

  test('tensors that share a few bytes and claim many', async () => {
    const storage = op.storage('FloatStorage', '0', 40_000);
    const dict = op.dict(
      Object.fromEntries(
        Array.from({ length: 40 }, (_, i) => [`t${i}.weight`, op.tensor(storage, 0, [200, 200], [200, 1])]),
      ),
    );
    await expect(convertBytes(archive(dict, { 0: new Float32Array(40_000) }), 'f32')).rejects.toThrow(
      /tensors have 6400000 bytes, where the file has \d+/,
    );
  });

  test('a row of zeros is zero, not NaN', () => {
    const { q, scale } = quantise('w', Float32Array.of(0, 0, 1, -2), 2);
    expect([[...q], [...scale]]).toEqual([
      [0, 0, 64, -127],
      [0, Math.fround(2 / 127)],
    ]);
  });

  test('an abort stops between tensors, with the signal’s reason', async () => {
    const controller = new AbortController();
    const onProgress = (done: number) => {
      if (done === 3) controller.abort(new Error('enough'));
    };
    await expect(convertBytes(shipped, 'f16', { onProgress, signal: controller.signal })).rejects.toThrow('enough');
  });
});

describe('which model a converted file says it is', () => {
  test('what is written is what is read', () => {
    for (const path of [UNET_FILE, CLASSIFIER_FILE]) {
      const config = readConfig(readSafetensors(readFileSync(path)));
      expect(readConfig({ metadata: new Map([['config', writeConfig(config)]]) })).toEqual(config);
    }
    for (const flags of [
      '--image_size 64 --predict_xstart True',
      '--large_size 256 --learn_sigma True --class_cond 1',
    ]) {
      const parsed = parseFlags(flags);
      const config = parsed.config(parsed.kinds[0]!);
      expect(readConfig({ metadata: new Map([['config', writeConfig(config)]]) })).toEqual(config);
    }
  });

  test('flags are written down, a guess is not', async () => {
    const flags = parseFlags('--image_size 16 --channel_mult 1 --num_channels 32 --num_res_blocks 1 --num_heads 8');
    const config = flags.config('unet');
    const tensors = Object.fromEntries(
      modelParameters(config).map(({ name, shape }) => {
        const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
        return [name, { dtype: 'F32' as const, shape, data }];
      }),
    );
    const file = writeSafetensors(tensors);
    const guessed = await convertBytes(file, 'f16');
    expect(guessed.reason).toMatch(/do not tell num_heads, use_new_attention_order, image_size/);
    expect(readSafetensors(guessed.file).metadata.has('config')).toBe(false);
    const told = await convertBytes(file, 'f16', { config });
    expect(readConfig(readSafetensors(told.file))).toEqual(config);
    await expect(convertBytes(file, 'f16', { config: parseFlags('--num_channels 64').config('unet') })).rejects.toThrow(
      /--num_channels 32/,
    );
  });
});

describe('the command', () => {
  const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'pilotwave-convert-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const run = (...args: string[]) => spawnSync(process.execPath, [cli, 'convert', ...args], { encoding: 'utf8' });

  test('writes the file whole, and says what it did', async () => {
    const out = join(folder, 'deep', 'classifier.safetensors');
    const printed = execFileSync(
      process.execPath,
      [cli, 'convert', CLASSIFIER_FILE, out, '--format', 'int8', '--json'],
      {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    );
    const { file } = await convertBytes(shipped, 'int8');
    expect(Buffer.compare(readFileSync(out), file)).toBe(0);
    expect(JSON.parse(printed)).toMatchObject({ format: 'int8', bytesRead: shipped.length, bytesWritten: file.length });
    expect(readdirSync(join(folder, 'deep'))).toEqual(['classifier.safetensors']);
  });

  test('complains in one line, and leaves nothing behind', () => {
    const broken = join(folder, 'broken.pt');
    writeFileSync(broken, shipped.subarray(0, 50_000));
    const out = join(folder, 'out.safetensors');
    for (const [args, message] of [
      [[broken, out], /^pilotwave: .*broken\.pt: .*cut off/],
      [[CLASSIFIER_FILE, out, '--format', 'f8'], /^pilotwave: --format should be f32 or f16 or int8, found "f8"/],
      [[CLASSIFIER_FILE], /^pilotwave: convert takes the file to read and the file to write/],
      [[join(folder, 'nothing'), out], /^pilotwave: cannot read the checkpoint .*nothing: there is no such file/],
      [
        [folder, out],
        /^pilotwave: cannot read the checkpoint .*: it is a folder without any of model.safetensors.index.json/,
      ],
      [[CLASSIFIER_FILE, out, '--flags', '--wings 2'], /^pilotwave: --wings is no flag/],
    ] as const) {
      const { status, stderr } = run(...args);
      expect(stderr).toMatch(message);
      expect(stderr.trim().split('\n').length).toBe(1);
      expect(status).toBe(2);
    }
    expect(readdirSync(folder).sort()).toEqual(['broken.pt', 'deep']);
  });

  test('shards and folders are opened by their index', () => {
    const shards = mkdtempSync(join(folder, 'shards-'));
    const { tensors, metadata } = readSafetensors(shipped);
    const names = [...tensors.keys()];
    const part = (list: string[]) =>
      writeSafetensors(
        Object.fromEntries(
          list.map((n) => [
            n,
            { dtype: tensors.get(n)!.dtype, shape: tensors.get(n)!.shape, data: tensors.get(n)!.bytes },
          ]),
        ),
        Object.fromEntries(metadata),
      );
    const halves = [names.slice(0, 40), names.slice(40)];
    const weight_map: Record<string, string> = {};
    halves.forEach((list, i) => {
      const file = `model-0000${i + 1}-of-00002.safetensors`;
      for (const name of list) weight_map[name] = file;
      writeFileSync(join(shards, file), part(list));
    });
    writeFileSync(join(shards, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
    const out = join(folder, 'joined.safetensors');
    const { status, stderr } = run(shards, out, '--format', 'f32');
    expect(stderr).toContain('as f32');
    expect(status).toBe(0);
    const joined = readSafetensors(readFileSync(out));
    expect(joined.metadata.get('config')).toBe(metadata.get('config'));
    for (const [name, tensor] of tensors) {
      expect([...numbersOf('F32', joined.tensors.get(name)!.bytes)]).toEqual([...toNumbers(tensor)]);
    }
    rmSync(out);
    rmSync(shards, { recursive: true });
  });
});
