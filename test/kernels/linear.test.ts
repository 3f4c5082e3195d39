import { describe, expect, test } from 'vitest';
import * as linear from '../../src/layers/linear.ts';
import { checkpointOf, expectClose, inner, run, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const runtime = await testRuntime();

/** [rows, in, out]: one row, few rows, many rows, sizes that are no multiples of 4. */
const SHAPES: [number, number, number][] = [
  [1, 5, 7],
  [2, 130, 33],
  [3, 4, 1],
  [10, 31, 64],
  [65, 12, 20],
  [130, 9, 6],
];

describe.each(SHAPES)('linear %i rows, %i→%i', (rows, ins, out) => {
  const shape = { n: rows, h: 1, w: 1, c: ins };
  const x = values(rows * ins, 1);
  const weight = values(out * ins, 2);
  const bias = values(out, 3);
  const upstream = values(rows * out, 4);
  const expected = reference.conv2d(x, shape, weight, bias, out, 1, 1);

  test('forward, input gradient, adjoint identity', async () => {
    const weights = checkpointOf({
      'op.weight': { shape: [out, ins], data: weight },
      'op.bias': { shape: [out], data: bias },
    });
    const found = await run(runtime, weights, (e) => {
      const input = e.input('x', shape, x);
      const y = linear.forward(e, 'op', input);
      e.output('y', y);
      e.gradient('dx', y, upstream, input);
    });
    expectClose(found['y']!, expected.data);
    expectClose(found['dx']!, reference.conv2dGradient(upstream, expected.shape, weight, shape, 1, 1));
    const ax = found['y']!.map((value, i) => value - bias[i % out]!);
    const scale = Math.sqrt(inner(upstream, upstream) * inner(ax, ax));
    expect(Math.abs(inner(upstream, ax) - inner(found['dx']!, x)) / scale).toBeLessThan(1e-6);
  });
});

test('stacked weights are one product with the outputs side by side', async () => {
  const [a, b] = [values(8 * 6, 1), values(4 * 6, 2)];
  const weights = checkpointOf({
    'a.weight': { shape: [8, 6], data: a },
    'a.bias': { shape: [8], data: values(8, 3) },
    'b.weight': { shape: [4, 6], data: b },
    'b.bias': { shape: [4], data: values(4, 4) },
  });
  const x = values(3 * 6, 5);
  const shape = { n: 3, h: 1, w: 1, c: 6 };
  const found = await run(runtime, weights, (e) => {
    const input = e.input('x', shape, x);
    e.output('both', linear.forward(e, ['a', 'b'], input));
    e.output('a', linear.forward(e, 'a', input));
    e.output('b', linear.forward(e, 'b', input));
  });
  const rows = Array.from({ length: 3 }, (_, r) => [
    ...found['a']!.subarray(r * 8, (r + 1) * 8),
    ...found['b']!.subarray(r * 4, (r + 1) * 4),
  ]);
  expect([...found['both']!]).toEqual(rows.flat());
});

test.each(['F16', 'BF16', 'F64'] as const)('parameters stored as %s are widened exactly', async (dtype) => {
  const numbers = [0, -0.5, 1.25, 3, -96, 0.0078125];
  const bytes = new Uint8Array(numbers.length * (dtype === 'F64' ? 8 : 2));
  const view = new DataView(bytes.buffer);
  numbers.forEach((value, i) => {
    if (dtype === 'F64') view.setFloat64(i * 8, value, true);
    else if (dtype === 'BF16') {
      const float = new DataView(new ArrayBuffer(4));
      float.setFloat32(0, value);
      view.setUint16(i * 2, float.getUint16(0), true);
    } else {
      const exponent = value === 0 ? 0 : Math.floor(Math.log2(Math.abs(value)));
      const fraction = value === 0 ? 0 : Math.abs(value) / 2 ** exponent - 1;
      view.setUint16(
        i * 2,
        value === 0 ? 0 : (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | (fraction * 1024),
        true,
      );
    }
  });
  const weights = checkpointOf({ 'op.bias': { shape: [2], data: new Float32Array(2) } });
  const tensors = new Map(weights.tensors).set('op.weight', { dtype, shape: [2, 3], bytes });
  const found = await run(runtime, { tensors, metadata: new Map() }, (e) => {
    const identity = Float32Array.from([1, 0, 0, 0, 1, 0, 0, 0, 1]);
    e.output('y', linear.forward(e, 'op', e.input('x', { n: 3, h: 1, w: 1, c: 3 }, identity)));
  });
  const [a, b, c, d, e, f] = numbers;
  expect([...found['y']!].map((v) => v + 0)).toEqual([a, d, b, e, c, f].map((v) => v! + 0));
});
