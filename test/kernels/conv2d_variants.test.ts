/** @file Every variant of convolution against the float64 reference, on maps small enough to run them all. */
import { describe, expect, test } from 'vitest';
import { type Evaluation, evaluate } from '../../src/cli/verify/evaluate.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { stagedBytes, WORKGROUP_TILES } from '../../src/layers/workgroup_tiles.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import type { Activation } from '../../src/runtime/resources.ts';
import { WeightShapes, Weights } from '../../src/runtime/weights.ts';
import { checkpointOf, expectClose, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';
import { anyVariant, expectLayer, oneOfEachWay, toleranceOf, variantsFor } from './variants.ts';

const runtime = await testRuntime();
const target = anyVariant(runtime);

/** [N, H, W, in, out, kernel, stride] */
const SHAPES: [number, number, number, number, number, 1 | 3, 1 | 2][] = [
  [1, 1, 1, 1, 1, 3, 1],
  [2, 5, 7, 3, 13, 3, 1],
  [1, 9, 6, 10, 10, 3, 1],
  [1, 2, 3, 250, 5, 3, 1],
  [3, 4, 4, 66, 34, 3, 1],
  [1, 7, 5, 6, 10, 3, 2],
  [3, 1, 5, 2, 7, 3, 2],
  [2, 5, 4, 3, 5, 1, 2],
];

describe.each(SHAPES)('conv2d N=%i %ix%i %i→%i k%i s%i', (n, h, w, ins, out, kernel, stride) => {
  const shape = { n, h, w, c: ins };
  const spec = { in: ins, out, kernel, stride };
  const shapes = { 'op.weight': [out, ins, kernel, kernel], 'op.bias': [out] };
  const names = variantsFor(target, shapes, ({ graph, weights }) => {
    conv2d.forward({ graph, weights }, spec, 'op', graph.input('x', shape));
  });
  const x = values(size(shape), 1);
  const weight = values(out * ins * kernel * kernel, 2, 0.5);
  const bias = values(out, 3);
  const expected = reference.conv2d(x, shape, weight, bias, out, kernel, stride);
  const upstream = values(expected.data.length, 4);
  const residual = values(expected.data.length, 5);
  const gradient = reference.conv2dGradient(upstream, expected.shape, weight, shape, kernel, stride);
  const weights = checkpointOf({
    'op.weight': { shape: shapes['op.weight']!, data: weight },
    'op.bias': { shape: shapes['op.bias']!, data: bias },
  });

  test.each(oneOfEachWay(names))('%s', (name) => {
    const forward = (e: Evaluation, input: Activation, added: Activation | null) =>
      conv2d.forward(e, spec, 'op', input, { residual: added });
    const layer = { x: { shape, values: x }, residual, upstream, expected, gradient, forward };
    return expectLayer(runtime, weights, layer, { ...target, variants: { conv2d: name } }, toleranceOf(name));
  });
});

test('a gradient that another reader of the input has left is added by every variant', async () => {
  const shape = { n: 1, h: 3, w: 6, c: 9 };
  const spec = { in: 9, out: 9, kernel: 3, stride: 1 } as const;
  const weight = values(9 * 9 * 9, 2, 0.5);
  const weights = checkpointOf({
    'op.weight': { shape: [9, 9, 3, 3], data: weight },
    'op.bias': { shape: [9], data: values(9, 3) },
  });
  const upstream = values(size(shape), 4);
  const expected = reference
    .conv2dGradient(upstream, shape, weight, shape, 3, 1)
    .map((value, i) => value + upstream[i]!);
  const names = variantsFor(target, { 'op.weight': [9, 9, 3, 3], 'op.bias': [9] }, ({ graph, weights }) => {
    conv2d.forward({ graph, weights }, spec, 'op', graph.input('x', shape));
  });
  for (const name of oneOfEachWay(names)) {
    const found = await run(
      runtime,
      weights,
      (e) => {
        const input = e.input('x', shape, values(size(shape), 1));
        e.gradient('dx', conv2d.forward(e, spec, 'op', input, { residual: input }), upstream, input);
      },
      { ...target, variants: { conv2d: name } },
    );
    expectClose(found['dx']!, expected, toleranceOf(name));
  }
});

describe('kernels that were stored in another format are transformed as the same values in float32 are', () => {
  const [ins, out] = [6, 5];
  const shape = { n: 1, h: 5, w: 5, c: ins };
  const integers = values(out * ins * 9, 2).map((v) => Math.round(127 * v));
  const scales = Float32Array.from({ length: out }, (_, o) => 2 ** -(o + 5));
  const numbers = integers.map((v, i) => v * scales[Math.floor(i / (ins * 9))]!);
  const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  // Seven bits of fraction: exact in bfloat16, and in float16 too.
  const exponent = (v: number) => Math.floor(Math.log2(Math.abs(v)));
  const half = (v: number) =>
    v === 0 ? 0 : ((v < 0 ? 0x8000 : 0) | ((exponent(v) + 15) << 10)) + (Math.abs(v) / 2 ** exponent(v) - 1) * 1024;
  const stored: Readonly<Record<string, { bytes: Uint8Array; scale?: string }>> = {
    F16: { bytes: bytesOf(Uint16Array.from(numbers, half)) },
    BF16: { bytes: bytesOf(Uint16Array.from(new Uint32Array(numbers.buffer), (word) => word >>> 16)) },
    I8: { bytes: bytesOf(Int8Array.from(integers)), scale: 'op.weight_scale' },
  };
  const plain = checkpointOf({
    'op.weight': { shape: [out, ins, 3, 3], data: numbers },
    'op.bias': { shape: [out], data: values(out, 3) },
    'op.weight_scale': { shape: [out], data: scales },
  });

  test.each(['winograd 2x2', 'winograd 4x4'])('%s', async (name) => {
    const results = async (tensors: typeof plain.tensors) => {
      const weights = new Weights(runtime, tensors, { storage: 'f32' });
      const build = (e: Evaluation) => {
        const input = e.input('x', shape, values(size(shape), 1));
        const y = conv2d.forward(e, { in: ins, out, kernel: 3, stride: 1 }, 'op', input);
        e.output('y', y);
        e.gradient('dx', y, values(out * 25, 4), input);
      };
      const found = await evaluate(runtime, weights, build, { ...target, variants: { conv2d: name } });
      weights.dispose();
      return found;
    };
    const expected = await results(plain.tensors);
    for (const [dtype, more] of Object.entries(stored)) {
      const tensors = new Map(plain.tensors).set('op.weight', { dtype, shape: [out, ins, 3, 3], ...more } as never);
      expect(await results(tensors), dtype).toEqual(expected);
    }
  });
});

describe('which variants may be taken', () => {
  const namesOn = (more: Partial<Target>, shape = { n: 1, h: 16, w: 16, c: 256 }) => {
    const graph = new Graph({ adapter: 'gpu', slowCompiler: false, ...more });
    const weights = new WeightShapes(
      new Map([
        ['op.weight', [256, shape.c, 3, 3]],
        ['op.bias', [256]],
      ]),
    );
    conv2d.forward({ graph, weights }, { in: shape.c, out: 256, kernel: 3, stride: 1 }, 'op', graph.input('x', shape));
    const { choice } = graph.operations[0]!;
    return { names: choice!.candidates().map(({ name }) => name), chosen: choice!.chosen().name };
  };
  const halves = (names: readonly string[]) => names.filter((name) => name.startsWith('f16 ')).length;

  test('float16 only with the feature, and only where less is asked for or it is forced', () => {
    const features = new Set(['shader-f16']);
    expect(halves(namesOn({ accuracy: 'reduced' }).names)).toBe(0);
    expect(halves(namesOn({ features }).names)).toBe(0);
    expect(halves(namesOn({ features, accuracy: 'reduced' }).names)).toBeGreaterThan(0);
    expect(namesOn({ features, variants: { conv2d: 'f16' } }).chosen).toMatch(/^f16 /);
    expect(namesOn({ variants: { conv2d: 'f16' } }).chosen).not.toMatch(/^f16 /);
  });

  test('F(4 x 4) in narrow layers only where less is asked for or it is forced', () => {
    const large = (names: readonly string[]) => names.some((name) => name.startsWith('winograd 4x4 '));
    const adapter = 'cpu';
    const narrow = { n: 1, h: 16, w: 16, c: 63 };
    expect(large(namesOn({ adapter }, narrow).names)).toBe(false);
    expect(namesOn({ adapter }, narrow).chosen).toMatch(/^winograd 2x2 /);
    expect(namesOn({ adapter, accuracy: 'reduced' }, narrow).chosen).toMatch(/^winograd 4x4 /);
    expect(namesOn({ adapter, variants: { conv2d: 'winograd 4x4' } }, narrow).chosen).toMatch(/^winograd 4x4 /);
    expect(namesOn({ adapter }, { ...narrow, c: 64 }).chosen).toMatch(/^winograd 4x4 /);
  });

  test('by cost, a GPU takes workgroup memory for large maps and splits small ones; a CPU adapter does neither', () => {
    expect(namesOn({}, { n: 1, h: 128, w: 128, c: 256 }).chosen).toMatch(/^workgroup /);
    expect(namesOn({}, { n: 1, h: 8, w: 8, c: 1024 }).chosen).toMatch(/^split /);
    for (const side of [8, 32, 128]) {
      expect(namesOn({ adapter: 'cpu' }, { n: 1, h: side, w: side, c: 256 }).chosen).toMatch(/^(winograd|registers) /);
    }
  });

  test('a name that no variant has is refused', () => {
    expect(() => namesOn({ variants: { conv2d: 'winograd2x2' } })).toThrow(
      'no variant of conv2d is called "winograd2x2"',
    );
  });

  test.each(WORKGROUP_TILES)('the staged tile of $name can be shared out', (tile) => {
    const { across, down, run, quads, depth } = tile;
    const threads = across * down;
    expect(`${tile.name}x`).toMatch(new RegExp(`^${across * run}x${4 * down * quads}x(${run}x)?$`));
    expect(threads).toBeLessThanOrEqual(256);
    expect([across % 8, down % 4]).toEqual([0, 0]);
    expect([(across * run * depth) % threads, (4 * down * quads * depth) % threads]).toEqual([0, 0]);
  });

  test('a tile that needs more workgroup memory than the device allows is left out', () => {
    const large = WORKGROUP_TILES.filter((tile) => stagedBytes(tile) > 16384).map(({ name }) => `workgroup ${name}`);
    expect(large.length).toBeGreaterThan(0);
    const shape = { n: 1, h: 64, w: 64, c: 256 };
    expect(namesOn({}, shape).names).toEqual(expect.not.arrayContaining(large));
    expect(namesOn({ workgroupBytes: 32768 }, shape).names).toEqual(expect.arrayContaining(large));
  });
});
