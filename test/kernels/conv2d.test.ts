import { describe, expect, test } from 'vitest';
import * as conv2d from '../../src/layers/conv2d.ts';
import { checkpointOf, expectClose, inner, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

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
