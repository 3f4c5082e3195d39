/** @file Matrices held by subgroups: what an adapter has of them, both syntaxes, and weights in their order. */
import { describe, expect, test } from 'vitest';
import packFragments from '../../shaders/subgroup_matrix/pack_fragments.wgsl';
import { runOnce } from '../../src/runtime/pipelines.ts';
import { kernelCall, lineGrid } from '../../src/runtime/shader.ts';
import { olderSyntax, SUBGROUP_MATRIX_FEATURE, subgroupMatrixOf } from '../../src/runtime/subgroup_matrix.ts';
import { matricesOf } from '../../src/runtime/weights.ts';
import { testRuntime } from '../device.ts';

const config = (M: number, N: number, K: number, componentType = 'f16', resultComponentType = 'f32') => ({
  M,
  N,
  K,
  componentType,
  resultComponentType,
});

describe('what an adapter has', () => {
  const features = new Set([SUBGROUP_MATRIX_FEATURE, 'shader-f16']) as never;
  const info = (subgroupMaxSize: number, ...subgroupMatrixConfigs: object[]) =>
    ({ subgroupMinSize: 32, subgroupMaxSize, subgroupMatrixConfigs }) as never;

  test('is the largest shape with float16 factors and float32 sums', () => {
    const all = info(
      32,
      config(16, 8, 16),
      config(16, 16, 16),
      config(32, 32, 32, 'u8', 'u32'),
      config(64, 64, 64, 'f16', 'f16'),
    );
    expect(subgroupMatrixOf(features, all)).toEqual({ m: 16, n: 16, k: 16, subgroup: 32 });
  });

  test('is nothing without such a shape, with subgroups of several sizes, or without the features', () => {
    expect(subgroupMatrixOf(features, info(32, config(16, 16, 32, 'i8', 'i32')))).toBeUndefined();
    expect(subgroupMatrixOf(features, info(64, config(16, 16, 16)))).toBeUndefined();
    expect(subgroupMatrixOf(new Set(['shader-f16']) as never, info(32, config(16, 16, 16)))).toBeUndefined();
    expect(subgroupMatrixOf(new Set([SUBGROUP_MATRIX_FEATURE]) as never, info(32, config(16, 16, 16)))).toBeUndefined();
    expect(subgroupMatrixOf(features, {} as never)).toBeUndefined();
  });
});

test('the older syntax has the order among the arguments', () => {
  const newer = `
    let a = subgroupMatrixLoad<Left, row_major>(&staged, shift + r * (2u * P), PITCH);
    b = subgroupMatrixLoad<subgroup_matrix_right<f16, N, K>, col_major>(&fragments, at(1u, 2u), N);
    subgroupMatrixStore<row_major>(&y, f(at, 1u), sums, 4u * OUT);`;
  expect(olderSyntax(newer)).toBe(`
    let a = subgroupMatrixLoad<Left>(&staged, shift + r * (2u * P), false, PITCH);
    b = subgroupMatrixLoad<subgroup_matrix_right<f16, N, K>>(&fragments, at(1u, 2u), true, N);
    subgroupMatrixStore(&y, f(at, 1u), sums, false, 4u * OUT);`);
});

test('weights lie in matrices, each in one piece, those of the taps next to each other', async () => {
  const runtime = await testRuntime();
  const [outs, ins, taps] = [20, 12, 9];
  const [n, k, chunk] = [16, 8, 2];
  const { outMatrices, inMatrices } = matricesOf({ n, k, chunk }, outs, ins);
  expect([outMatrices, inMatrices]).toEqual([2, 2]);
  const numberOf = (o: number, i: number, tap: number) => 1 + (o * ins + i) * taps + tap;
  const blocks = new Uint16Array(outs * ins * taps);
  for (let o = 0; o < outs; o++)
    for (let i = 0; i < ins; i++)
      for (let tap = 0; tap < taps; tap++) {
        const block = (Math.floor(o / 4) * taps + tap) * (ins / 4) + Math.floor(i / 4);
        blocks[block * 16 + (i % 4) * 4 + (o % 4)] = numberOf(o, i, tap);
      }
  const words = (outMatrices * inMatrices * taps * n * k) / 2;
  const { STORAGE, COPY_DST, COPY_SRC } = GPUBufferUsage;
  const from = runtime.buffers.create('blocks', blocks.byteLength, STORAGE | COPY_DST);
  const to = runtime.buffers.create('fragments', 4 * words, STORAGE | COPY_SRC);
  const staging = runtime.buffers.create('staging', 4 * words, GPUBufferUsage.MAP_READ | COPY_DST);
  runtime.device.queue.writeBuffer(from, 0, blocks);
  const call = kernelCall(packFragments, {
    bind: { blocks: null, fragments: null },
    sizes: { OUT_QUADS: outs / 4, IN_QUADS: ins / 4, TAPS: taps, OUT_MATRICES: outMatrices, IN_MATRICES: inMatrices },
    tiles: { N: n, K: k },
    grid: lineGrid(words / 2, 64),
    cost: { flops: 0, bytes: 0 },
  });
  const whole = (buffer: GPUBuffer) => ({ buffer, offset: 0, size: buffer.size });
  await runOnce(runtime, [{ call, bindings: { blocks: whole(from), fragments: whole(to) } }]);
  const encoder = runtime.device.createCommandEncoder();
  encoder.copyBufferToBuffer(to, 0, staging, 0, 4 * words);
  runtime.device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const found = new Uint16Array(staging.getMappedRange().slice(0));
  let at = 0;
  for (let om = 0; om < outMatrices; om++)
    for (let im = 0; im < inMatrices; im++)
      for (let tap = 0; tap < taps; tap++)
        for (let i = im * k; i < (im + 1) * k; i++)
          for (let o = om * n; o < (om + 1) * n; o++)
            expect(found[at++], `${o} ${i} ${tap}`).toBe(o < outs && i < ins ? numberOf(o, i, tap) : 0);
  expect(at).toBe(found.length);
});
