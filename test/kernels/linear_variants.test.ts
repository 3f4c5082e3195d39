/** @file Every variant of the matrix product against the float64 reference, on sizes small enough to run them all. */
import { describe, expect, test } from 'vitest';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import * as linear from '../../src/layers/linear.ts';
import { Graph } from '../../src/runtime/graph.ts';
import type { Activation } from '../../src/runtime/resources.ts';
import { WeightShapes } from '../../src/runtime/weights.ts';
import { checkpointOf, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';
import { anyVariant, expectLayer, oneOfEachWay, toleranceOf, variantsFor } from './variants.ts';

const runtime = await testRuntime();
const target = anyVariant(runtime);

/** [rows, in, out] */
const SHAPES: [number, number, number][] = [
  [1, 5, 7],
  [1, 130, 33],
  [3, 250, 9],
  [10, 31, 34],
  [35, 12, 70],
];

describe.each(SHAPES)('linear %i rows, %i→%i', (rows, ins, out) => {
  const shape = { n: rows, h: 1, w: 1, c: ins };
  const shapes = { 'op.weight': [out, ins], 'op.bias': [out] };
  const names = variantsFor(target, shapes, ({ graph, weights }) => {
    linear.forward({ graph, weights }, 'op', graph.input('x', shape));
  });
  const x = values(rows * ins, 1);
  const weight = values(out * ins, 2);
  const bias = values(out, 3);
  const upstream = values(rows * out, 4);
  const residual = values(rows * out, 5);
  const expected = reference.conv2d(x, shape, weight, bias, out, 1, 1);
  const gradient = reference.conv2dGradient(upstream, expected.shape, weight, shape, 1, 1);
  const weights = checkpointOf({
    'op.weight': { shape: shapes['op.weight']!, data: weight },
    'op.bias': { shape: shapes['op.bias']!, data: bias },
  });

  test.each(oneOfEachWay(names))('%s', (name) => {
    const forward = (e: Evaluation, input: Activation, added: Activation | null) =>
      linear.forward(e, 'op', input, { residual: added });
    const layer = { x: { shape, values: x }, residual, upstream, expected, gradient, forward };
    return expectLayer(runtime, weights, layer, { ...target, variants: { linear: name } }, toleranceOf(name));
  });
});

test('by cost, a GPU shares the sums of a single row, and takes workgroup memory for many', () => {
  const chosen = (rows: number) => {
    const graph = new Graph({ adapter: 'gpu', slowCompiler: false });
    const weights = new WeightShapes(
      new Map([
        ['op.weight', [1024, 1024]],
        ['op.bias', [1024]],
      ]),
    );
    linear.forward({ graph, weights }, 'op', graph.input('x', { n: 1, h: 1, w: rows, c: 1024 }));
    return graph.operations[0]!.choice!.chosen().name;
  };
  expect(chosen(1)).toMatch(/^shared /);
  expect(chosen(16384)).toMatch(/^workgroup /);
});
