import { expect, test } from 'vitest';
import { numbersOf } from '../../src/checkpoints/dtypes.ts';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { openShards } from '../../src/checkpoints/shards.ts';
import { type ByteSource, memorySource } from '../../src/checkpoints/source.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';

const f32 = (...numbers: number[]) => ({
  dtype: 'F32' as const,
  shape: [numbers.length],
  data: Float32Array.from(numbers),
});
const FILES: Readonly<Record<string, Uint8Array>> = {
  'model-00001-of-00002.safetensors': writeSafetensors({ a: f32(1, 2), b: f32(3) }, { config: 'of the first' }),
  'model-00002-of-00002.safetensors': writeSafetensors(
    {
      c: { dtype: 'BF16', shape: [2], data: Uint16Array.of(0x3f80, 0xc040) },
      d: { dtype: 'F64', shape: [1], data: Float64Array.of(1 / 3) },
    },
    { config: 'of the second', format: 'pt' },
  ),
};
const MAP = {
  a: 'model-00001-of-00002.safetensors',
  b: 'model-00001-of-00002.safetensors',
  c: 'model-00002-of-00002.safetensors',
  d: 'model-00002-of-00002.safetensors',
};

const open = async (file: string): Promise<ByteSource> => {
  const bytes = FILES[file];
  if (!bytes) throw new CheckpointError(`there is no ${file}`);
  return memorySource(bytes);
};

test('shards are one checkpoint', async () => {
  const asked: string[] = [];
  const file = await openShards(JSON.stringify({ metadata: { total_size: 24 }, weight_map: MAP }), (name) => {
    asked.push(name);
    return open(name);
  });
  expect(asked).toEqual(Object.keys(FILES));
  expect(file.format).toBe('safetensors in 2 files');
  expect(Object.fromEntries(file.metadata)).toEqual({ config: 'of the first', format: 'pt' });
  const values: Record<string, number[]> = {};
  for (const [name, { dtype, shape }] of file.tensors) {
    const into = new Uint8Array((await file.read(name)).length);
    await file.readInto(name, into);
    values[name] = [...numbersOf(dtype, into)];
    expect(shape).toEqual([values[name]!.length]);
  }
  expect(values).toEqual({ a: [1, 2], b: [3], c: [1, -3], d: [1 / 3] });
});

test.each<[string, string, RegExp]>([
  ['no JSON', '{', /index of the shards is not JSON/],
  ['no map', '{"weight_map": [1]}', /object "weight_map", found \[1\]/],
  ['nothing', 'null', /object "weight_map", found undefined/],
  ['an empty map', '{"weight_map": {}}', /names no tensor/],
  ['a file outside the folder', JSON.stringify({ weight_map: { a: '../secret' } }), /"a" in "..\/secret", which is no/],
  ['a file that is a number', JSON.stringify({ weight_map: { a: 3 } }), /"a" in 3, which is no file name/],
  ['a file that is not there', JSON.stringify({ weight_map: { a: 'x.safetensors' } }), /there is no x.safetensors/],
  [
    'a tensor that its shard lacks',
    JSON.stringify({ weight_map: { ...MAP, e: MAP.a } }),
    /model-00001-of-00002.safetensors lacks "e"/,
  ],
  [
    'a tensor in another shard',
    JSON.stringify({ weight_map: { ...MAP, b: MAP.c } }),
    /00001-of-00002.safetensors holds "b", which the index does not put there/,
  ],
])('an index with %s is refused', async (_what, index, message) => {
  await expect(openShards(index, open)).rejects.toThrow(message);
  await expect(openShards(index, open)).rejects.toBeInstanceOf(CheckpointError);
});
