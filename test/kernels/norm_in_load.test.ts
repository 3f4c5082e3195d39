/** @file A GroupNorm that the convolution after it makes as it loads: the same results, and a dispatch and a tensor less. */
import { describe, expect, test } from 'vitest';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import * as groupNorm from '../../src/layers/group_norm.ts';
import { upsample } from '../../src/layers/resample.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import type { Activation } from '../../src/runtime/resources.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import type { ForcedVariants } from '../../src/runtime/variants.ts';
import { WeightShapes } from '../../src/runtime/weights.ts';
import { checkpointOf, expectClose, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const runtime = await testRuntime();
const shape = { n: 2, h: 7, w: 6, c: 10 };
const out = 9;
const data = {
  'norm.weight': { shape: [10], data: values(10, 1) },
  'norm.bias': { shape: [10], data: values(10, 2) },
  'conv.weight': { shape: [out, 10, 3, 3], data: values(out * 90, 3, 0.3) },
  'conv.bias': { shape: [out], data: values(out, 4) },
};
const norm = (silu: boolean) => ({ channels: 10, groups: 5, eps: 1e-5, silu });

function layers(e: Pick<Evaluation, 'graph' | 'weights'>, x: Activation, silu: boolean, enlarged = false) {
  const normed = groupNorm.forward(e, norm(silu), 'norm', x);
  const read = enlarged ? upsample(e.graph, normed) : normed;
  return { normed, y: conv2d.forward(e, { in: 10, out, kernel: 3, stride: 1 }, 'conv', read) };
}

/** A GPU, on which the ways are these. */
const gpu = (variants: ForcedVariants): Target => ({ ...runtime.target, adapter: 'gpu', variants });

const shadersOf = (target: Target, readNormed = false, enlarged = false): string[] => {
  const graph = new Graph(target);
  const shapes = new Map(Object.entries(data).map(([name, { shape: s }]) => [name, s]));
  const { normed, y } = layers({ graph, weights: new WeightShapes(shapes) }, graph.input('x', shape), true, enlarged);
  return schedule(graph, readNormed ? [y, normed] : [y]).calls.map(({ shader }) => shader.name);
};

describe.each(['winograd 2x2', 'winograd 4x4'])('%s', (way) => {
  const fused = gpu({ conv2d: way, group_norm: 'segments' });

  test.each([true, false])('results and gradient, SiLU %s', async (silu) => {
    const x = values(size(shape), 5);
    const normed = reference.groupNorm(x, shape, {
      groups: 5,
      eps: 1e-5,
      gamma: data['norm.weight'].data,
      beta: data['norm.bias'].data,
      silu,
    });
    const expected = reference.conv2d(normed, shape, data['conv.weight'].data, data['conv.bias'].data, out, 3, 1);
    const upstream = values(expected.data.length, 6);
    const build = (e: Evaluation) => {
      const input = e.input('x', shape, x);
      const { y } = layers(e, input, silu);
      e.output('y', y);
      e.gradient('dx', y, upstream, input);
    };
    const found = await run(runtime, checkpointOf(data), build, fused);
    const apart = await run(runtime, checkpointOf(data), build, gpu({ conv2d: 'registers', group_norm: 'segments' }));
    expectClose(found['y']!, expected.data);
    expectClose(found['dx']!, apart['dx']!, 5e-6);
  });

  test('of an enlarged map too: neither it nor the norm is made', async () => {
    expect(shadersOf(fused, false, true)).toEqual(shadersOf(fused));
    const results = async (target: Target) =>
      run(
        runtime,
        checkpointOf(data),
        (e) => {
          const { y } = layers(e, e.input('x', shape, values(size(shape), 5)), true, true);
          e.output('y', y);
        },
        target,
      );
    const apart = await results(gpu({ conv2d: 'registers', group_norm: 'segments' }));
    expectClose((await results(fused))['y']!, apart['y']!, 2e-6);
  });

  test('no dispatch makes the norm, unless somebody else asks for it or it costs none', () => {
    expect(shadersOf(fused)).not.toContain('group_norm/apply');
    expect(shadersOf(fused, true)).toContain('group_norm/apply');
    expect(shadersOf({ ...fused, adapter: 'cpu' })).toContain('group_norm/apply');
    const small = shadersOf(gpu({ conv2d: way, group_norm: 'workgroup' }));
    expect(small.filter((name) => name.startsWith('group_norm/'))).toEqual(['group_norm/workgroup']);
  });
});
