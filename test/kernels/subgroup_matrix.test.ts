/**
 * @file Kernels by matrices held by subgroups, where the adapter has them: results that lie in one piece, and those at edges.
 * The other shapes are those of conv2d_variants.test.ts and linear_variants.test.ts.
 */
import { expect, test } from 'vitest';
import * as attention from '../../src/layers/attention.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { checkpointOf, expectClose, noWeights, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';
import { anyVariant, expectLayer, toleranceOf } from './variants.ts';

const runtime = await testRuntime();
const { subgroupMatrix } = runtime.target;
if (!subgroupMatrix)
  console.warn(`${runtime.adapter.name} has no matrices held by subgroups: their kernels are not run`);
const { m, n } = subgroupMatrix ?? { m: 8, n: 8 };

/** [N, H, W, in, out, kernel], with results of 2 x 2 matrices of 2 x 2 subgroups */
const SHAPES: [number, number, number, number, number, 1 | 3][] = [
  [2, 4, 2 * m, 10, 4 * n, 3], // lines of whole matrices, all inside
  [2, 8, m / 2, 10, 4 * n, 3], // two lines a matrix, all inside
  [1, 5, m + 3, 10, 4 * n + 6, 3], // edges on all sides
  [1, 4, m, 40, 8 * n, 1],
];

test.skipIf(!subgroupMatrix).each(SHAPES)('N=%i %ix%i %i→%i k%i', async (images, h, w, ins, out, kernel) => {
  const shape = { n: images, h, w, c: ins };
  const spec = { in: ins, out, kernel, stride: 1 } as const;
  const x = values(size(shape), 1);
  const weight = values(out * ins * kernel * kernel, 2, 0.5);
  const bias = values(out, 3, 10);
  const expected = reference.conv2d(x, shape, weight, bias, out, kernel, 1);
  const upstream = values(expected.data.length, 4);
  const residual = values(expected.data.length, 5);
  const gradient = reference.conv2dGradient(upstream, expected.shape, weight, shape, kernel, 1);
  const weights = checkpointOf({
    'op.weight': { shape: [out, ins, kernel, kernel], data: weight },
    'op.bias': { shape: [out], data: bias },
  });
  const name = 'matrix 2x2x2x2';
  await expectLayer(
    runtime,
    weights,
    {
      x: { shape, values: x },
      residual,
      upstream,
      expected,
      gradient,
      forward: (e, input, added) => conv2d.forward(e, spec, 'op', input, { residual: added }),
    },
    { ...anyVariant(runtime), variants: { conv2d: name, linear: name } },
    toleranceOf(name),
  );
});

/** [N, heads, width, tokens]: tokens and widths that fill matrices, and that do not */
const ATTENTIONS: [number, number, number, number][] = [
  [2, 3, 20, 41],
  [1, 2, 2 * n, 8 * n],
];

test.skipIf(!subgroupMatrix).each(ATTENTIONS)(
  'attention N=%i heads=%i width=%i T=%i',
  async (images, heads, width, tokens) => {
    const shape = { n: images, h: 1, w: tokens, c: heads * 3 * width };
    const qkv = values(size(shape), 1, 1.5);
    const upstream = values(images * heads * width * tokens, 2, 0.01);
    const by = (way: string) =>
      run(
        runtime,
        noWeights,
        (e) => {
          const x = e.input('qkv', shape, qkv);
          const out = attention.forward(e.graph, { heads, width }, x);
          e.output('out', out);
          e.gradient('d', out, upstream, x);
        },
        { ...anyVariant(runtime), variants: { attention: way } },
      );
    const [found, expected] = [await by('matrix'), await by('online')];
    expect(found['out']).not.toEqual(expected['out']); // or one way was taken for both
    expectClose(found['out']!, expected['out']!, 2e-3);
    expectClose(found['d']!, expected['d']!, 3e-3);
  },
);
