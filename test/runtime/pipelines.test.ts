import { describe, expect, test } from 'vitest';
import convForward from '../../shaders/conv2d/forward.wgsl';
import * as conv2d from '../../src/layers/conv2d.ts';
import type { Operation } from '../../src/runtime/graph.ts';
import { kernelSource, pipelineKey } from '../../src/runtime/pipelines.ts';
import { type KernelCall, kernelCall, type Shader } from '../../src/runtime/shader.ts';
import { checkpointOf, expectClose, run, testRuntime, values } from '../device.ts';

const runtime = await testRuntime();

const call = (constantSizes: boolean): KernelCall =>
  kernelCall(convForward, {
    bind: { x: null, weights: null, bias: null, residual: null, y: null },
    sizes: {
      HEIGHT: 4,
      WIDTH: 4,
      IN_QUADS: 1,
      OUT_ROWS: 4,
      OUT_HEIGHT: 4,
      OUT_WIDTH: 4,
      OUT_QUADS: 1,
      BIAS: 0,
      RESIDUAL: 0,
      X_SHIFT: 0,
      RESIDUAL_SHIFT: 0,
    },
    tiles: { PIXELS: 4, QUADS: 1 },
    constantSizes,
    grid: [1, 1, 1],
    cost: { flops: 0, bytes: 0 },
  });

describe('sizes', () => {
  test('as uniform values they leave the text, and shapes share a pipeline', () => {
    const text = kernelSource(call(false));
    expect(text).toContain('var<uniform> sizes: Sizes');
    expect(text).toContain('sizes.OUT_QUADS');
    expect(text).not.toContain('override OUT_QUADS');
    expect(text).toContain('override THREADS_X');
    const other = { ...call(false), sizes: { ...call(false).sizes, HEIGHT: 9 } };
    expect(pipelineKey(other)).toBe(pipelineKey(call(false)));
  });

  test('as constants they stay, and each shape is a pipeline', () => {
    expect(kernelSource(call(true))).toContain('override OUT_QUADS');
    const other = { ...call(true), sizes: { ...call(true).sizes, HEIGHT: 9 } };
    expect(pipelineKey(other)).not.toBe(pipelineKey(call(true)));
    expect(pipelineKey(call(true))).not.toBe(pipelineKey(call(false)));
  });

  test('both ways compute the same', async () => {
    const weights = checkpointOf({
      'op.weight': { shape: [6, 5, 3, 3], data: values(270, 1) },
      'op.bias': { shape: [6], data: values(6, 2) },
    });
    const x = values(2 * 5 * 7 * 3, 3);
    const spec = { in: 5, out: 6, kernel: 3, stride: 1 } as const;
    const counts: number[] = [];
    const results: Float32Array[] = [];
    for (const constantSizes of [false, true]) {
      const found = await run(runtime, weights, (e) => {
        e.output('y', conv2d.forward(e, spec, 'op', e.input('x', { n: 2, c: 5, h: 7, w: 3 }, x)));
        const operations = e.graph.operations as Operation[];
        operations.forEach((operation, i) => {
          operations[i] = { ...operation, lower: () => operation.lower().map((c) => ({ ...c, constantSizes })) };
        });
      });
      counts.push(runtime.pipelines.count);
      results.push(found['y']!);
    }
    expect(counts[1]).toBe(counts[0]! + 1);
    expectClose(results[1]!, results[0]!, 1e-6);
  });
});

test('a shader that does not compile is named, with the compiler’s own words', async () => {
  const broken = {
    ...(convForward as unknown as Shader),
    name: 'conv2d/broken',
    source: `${convForward.source}\nfn broken() { let x = nowhere; }`,
  };
  await expect(runtime.pipelines.get({ ...call(false), shader: broken })).rejects.toThrow(
    /shaders\/conv2d\/broken\.wgsl does not compile.*nowhere/s,
  );
});
