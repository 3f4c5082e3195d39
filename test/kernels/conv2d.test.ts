import { describe, expect, test } from 'vitest';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { upsample } from '../../src/layers/resample.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { checkpointOf, expectClose, inner, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';
import { anyVariant, oneOfEachWay, toleranceOf, variantsFor } from './variants.ts';

const runtime = await testRuntime();

/** [N, H, W, in, out, kernel, stride]: odd sizes, 1 x 1 images, channels that are no multiples of 4, every tile width. */
const SHAPES: [number, number, number, number, number, 1 | 3, 1 | 2][] = [
  [1, 1, 1, 1, 1, 3, 1],
  [2, 5, 7, 3, 5, 3, 1],
  [3, 4, 3, 8, 6, 3, 1],
  [1, 9, 11, 5, 12, 3, 1],
  [2, 6, 28, 4, 9, 3, 1],
  [1, 3, 37, 7, 4, 3, 1],
  [2, 7, 5, 6, 10, 3, 2],
  [1, 8, 8, 3, 3, 3, 2],
  [3, 1, 5, 2, 7, 3, 2],
  [1, 2, 33, 5, 6, 3, 2],
  [2, 5, 6, 7, 9, 1, 1],
  [1, 11, 13, 12, 3, 1, 1],
  [2, 5, 4, 3, 5, 1, 2],
];

describe.each(SHAPES)('conv2d N=%i %ix%i %i→%i k%i s%i', (n, h, w, ins, out, kernel, stride) => {
  const shape = { n, h, w, c: ins };
  const x = values(size(shape), 1);
  const weight = values(out * ins * kernel * kernel, 2, 0.5);
  const bias = values(out, 3);
  const expected = reference.conv2d(x, shape, weight, bias, out, kernel, stride);
  const upstream = values(expected.data.length, 4);
  const weights = checkpointOf({
    'op.weight': { shape: [out, ins, kernel, kernel], data: weight },
    'op.bias': { shape: [out], data: bias },
  });
  const spec = { in: ins, out, kernel, stride };

  test('forward and input gradient equal the reference', async () => {
    const found = await run(runtime, weights, (e) => {
      const input = e.input('x', shape, x);
      const y = conv2d.forward(e, spec, 'op', input);
      e.output('y', y);
      e.gradient('dx', y, upstream, input);
    });
    expectClose(found['y']!, expected.data);
    expectClose(found['dx']!, reference.conv2dGradient(upstream, expected.shape, weight, shape, kernel, stride));
  });

  test('the gradient is the adjoint: <dy, A x> = <A^T dy, x>', async () => {
    const found = await run(runtime, weights, (e) => {
      const input = e.input('x', shape, x);
      const y = conv2d.forward(e, spec, 'op', input);
      e.output('y', y);
      e.gradient('dx', y, upstream, input);
    });
    const linearPart = reference.conv2d(new Float32Array(x.length), shape, weight, bias, out, kernel, stride).data;
    const ax = found['y']!.map((value, i) => value - linearPart[i]!);
    const scale = Math.sqrt(inner(upstream, upstream) * inner(ax, ax));
    expect(Math.abs(inner(upstream, ax) - inner(found['dx']!, x)) / scale).toBeLessThan(1e-6);
  });

  test('a residual is added to the result', async () => {
    const residual = values(expected.data.length, 5);
    const found = await run(runtime, weights, (e) => {
      const added = e.input('residual', expected.shape, residual);
      const y = conv2d.forward(e, spec, 'op', e.input('x', shape, x), { residual: added });
      e.output('y', y);
    });
    expectClose(
      found['y']!,
      expected.data.map((value, i) => value + residual[i]!),
    );
  });
});

test('a wrong number of channels is refused by name', async () => {
  const weights = checkpointOf({
    'op.weight': { shape: [4, 3, 3, 3], data: values(108, 1) },
    'op.bias': { shape: [4], data: values(4, 2) },
  });
  const spec = { in: 3, out: 4, kernel: 3, stride: 1 } as const;
  await expect(
    run(runtime, weights, (e) =>
      e.output('y', conv2d.forward(e, spec, 'op', e.input('x', { n: 1, c: 4, h: 2, w: 2 }, values(16, 1)))),
    ),
  ).rejects.toThrow('op takes 3 channels, found 4');
});

describe('of an enlarged picture', () => {
  const small = { n: 2, h: 3, w: 5, c: 6 };
  const large = { n: 2, h: 6, w: 10, c: 6 };
  const enlarge = (values: Float32Array) =>
    Float32Array.from({ length: 4 * values.length }, (_, i) => {
      const [column, row, plane] = [i % 10, Math.floor(i / 10) % 6, Math.floor(i / 60)];
      return values[plane * 15 + (row >> 1) * 5 + (column >> 1)]!;
    });
  const x = values(size(small), 1);
  const residual = values(size({ ...small, c: 7 }), 2);
  const weight = values(7 * 6 * 9, 3, 0.5);
  const bias = values(7, 4);
  const weights = checkpointOf({
    'op.weight': { shape: [7, 6, 3, 3], data: weight },
    'op.bias': { shape: [7], data: bias },
  });
  const spec = { in: 6, out: 7, kernel: 3, stride: 1 } as const;
  const expected = reference.conv2d(enlarge(x), large, weight, bias, 7, 3, 1);
  const upstream = values(expected.data.length, 5);

  const target = anyVariant(runtime);
  const names = variantsFor(target, { 'op.weight': [7, 6, 3, 3], 'op.bias': [7] }, (e) => {
    conv2d.forward(e, spec, 'op', e.graph.input('x', large));
  });

  test.each(oneOfEachWay(names))(
    '%s: result and gradient are those of the picture that is never made',
    async (name) => {
      let shaders: string[] = [];
      const build = (e: Evaluation) => {
        const input = e.input('x', small, x);
        const added = upsample(e.graph, e.input('residual', { ...small, c: 7 }, residual));
        const y = conv2d.forward(e, spec, 'op', upsample(e.graph, input), { residual: added });
        e.output('y', y);
        shaders = schedule(e.graph, [y]).calls.map(({ shader }) => shader.name);
        e.gradient('dx', y, upstream, input);
      };
      const found = await run(runtime, weights, build, { ...target, variants: { conv2d: name } });
      expect(shaders.filter((shader) => !/^(conv2d|winograd|subgroup_matrix)\//.test(shader))).toEqual([]);
      const added = enlarge(residual);
      expectClose(
        found['y']!,
        expected.data.map((value, i) => value + added[i]!),
        toleranceOf(name),
      );
      const full = reference.conv2dGradient(upstream, expected.shape, weight, large, 3, 1);
      const collected = Float64Array.from({ length: x.length }, (_, i) => {
        const [column, row, plane] = [i % 5, Math.floor(i / 5) % 3, Math.floor(i / 15)];
        const at = plane * 60 + 2 * row * 10 + 2 * column;
        return full[at]! + full[at + 1]! + full[at + 10]! + full[at + 11]!;
      });
      expectClose(found['dx']!, collected, toleranceOf(name));
    },
  );
});
