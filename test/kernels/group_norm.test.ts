import { describe, expect, test } from 'vitest';
import * as groupNorm from '../../src/layers/group_norm.ts';
import { checkpointOf, expectClose, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const runtime = await testRuntime();

/** [N, C, H, W, groups]: one, two, three and five channels a group, one pixel, one group, an area of several segments. */
const SHAPES: [number, number, number, number, number][] = [
  [2, 8, 3, 5, 8],
  [1, 8, 7, 5, 4],
  [3, 12, 1, 1, 4],
  [2, 12, 4, 3, 4],
  [1, 20, 2, 9, 4],
  [1, 4, 19, 23, 1],
  [1, 8, 17, 31, 2],
];

const MODES = ['plain', 'silu', 'scale-shift', 'add'] as const;

describe.each(SHAPES)('group_norm N=%i C=%i %ix%i, %i groups', (n, c, h, w, groups) => {
  const shape = { n, c, h, w };
  const x = values(size(shape), 1);
  const gamma = values(c, 2);
  const beta = values(c, 3);
  const upstream = values(x.length, 4);
  const weights = checkpointOf({
    'op.weight': { shape: [c], data: gamma },
    'op.bias': { shape: [c], data: beta },
  });

  test.each(MODES)('%s: forward and gradients', async (mode) => {
    const withSilu = mode !== 'plain';
    const embeddingWidth = mode === 'scale-shift' ? 2 * c : c;
    const embedding = values(n * embeddingWidth, 5);
    const options = { groups, eps: 1e-5, silu: withSilu, gamma, beta };
    const evaluate = (input: reference.Values, emb: reference.Values) => {
      if (mode === 'scale-shift') return reference.groupNorm(input, shape, { ...options, scaleShift: emb });
      if (mode === 'add') return reference.groupNorm(input, shape, { ...options, addend: emb });
      return reference.groupNorm(input, shape, options);
    };
    const found = await run(runtime, weights, (e) => {
      const input = e.input('x', shape, x);
      const spec = { channels: c, groups, eps: 1e-5, silu: withSilu };
      const tensor = e.input('embedding', { n, h: 1, w: 1, c: embeddingWidth }, embedding);
      const given = mode === 'scale-shift' || mode === 'add' ? { tensor, offset: 0, mode } : null;
      const y = groupNorm.forward(e, spec, 'op', input, given);
      e.output('y', y);
      e.gradient('dx', y, upstream, input);
      if (given) e.gradient('de', y, upstream, tensor);
    });
    expectClose(found['y']!, evaluate(x, embedding), 5e-6);
    if (x.length > 600) return; // differences of the reference take the square of the size
    if (h * w > 1 || c / groups > 1) {
      expectClose(
        found['dx']!,
        reference.centralDifferences((v) => evaluate(v, embedding), x, upstream),
        2e-5,
      );
    }
    if (found['de'] && !(mode === 'add' && c === groups)) {
      expectClose(
        found['de'],
        reference.centralDifferences((v) => evaluate(x, v), embedding, upstream),
        2e-5,
      );
    }
  });
});

test('a mean far from zero costs no digits of the deviation', async () => {
  const shape = { n: 1, c: 4, h: 8, w: 8 };
  const x = values(size(shape), 1).map((value) => 1000 + value);
  const ones = new Float32Array(4).fill(1);
  const weights = checkpointOf({
    'op.weight': { shape: [4], data: ones },
    'op.bias': { shape: [4], data: new Float32Array(4) },
  });
  const found = await run(runtime, weights, (e) => {
    e.output(
      'y',
      groupNorm.forward(e, { channels: 4, groups: 1, eps: 1e-5, silu: false }, 'op', e.input('x', shape, x)),
    );
  });
  const options = { groups: 1, eps: 1e-5, silu: false, gamma: ones, beta: [0, 0, 0, 0] };
  // The mean is known to 1000 * 2^-24 at best; E[x^2] - mean^2 would leave nothing of a variance of 1/3.
  expectClose(found['y']!, reference.groupNorm(x, shape, options), 2e-4);
});

test('an embedding is read at its offset in a wider projection', async () => {
  const shape = { n: 2, c: 4, h: 2, w: 3 };
  const x = values(size(shape), 1);
  const wide = values(2 * 16, 2);
  const narrow = Float32Array.from([...wide.subarray(8, 16), ...wide.subarray(24, 32)]);
  const weights = checkpointOf({
    'op.weight': { shape: [4], data: values(4, 3) },
    'op.bias': { shape: [4], data: values(4, 4) },
  });
  const spec = { channels: 4, groups: 2, eps: 1e-5, silu: true };
  const found = await run(runtime, weights, (e) => {
    const input = e.input('x', shape, x);
    const all = e.input('wide', { n: 2, h: 1, w: 1, c: 16 }, wide);
    const own = e.input('narrow', { n: 2, h: 1, w: 1, c: 8 }, narrow);
    e.output('a', groupNorm.forward(e, spec, 'op', input, { tensor: all, offset: 8, mode: 'scale-shift' }));
    e.output('b', groupNorm.forward(e, spec, 'op', input, { tensor: own, offset: 0, mode: 'scale-shift' }));
  });
  expect([...found['a']!]).toEqual([...found['b']!]);
});
