import { afterAll, describe, expect, test } from 'vitest';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import { add, scale } from '../../src/layers/elementwise.ts';
import * as groupNorm from '../../src/layers/group_norm.ts';
import { downsample } from '../../src/layers/resample.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { kernelSource } from '../../src/runtime/pipelines.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { WeightShapes } from '../../src/runtime/weights.ts';
import { checkpointOf, expectClose, inner, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const own = await testRuntime();
// Both software adapters have subgroups, of 4 and of 8.
const WAYS = ['segments', 'spans', 'workgroup', ...(own.device.features.has('subgroups') ? ['subgroups'] : [])];
const runtimes = Object.fromEntries(
  WAYS.map((way) => [way, new Runtime(own.device, { variants: { group_norm: way } })]),
);
afterAll(() => {
  for (const runtime of Object.values(runtimes)) runtime.dispose();
});

/**
 * [N, C, H, W, groups]: one, two, three, five and six channels a group, one pixel, one group, an area of several segments,
 * a last quad with padding, spans that end within the last of theirs; maps large and small for a span.
 */
const SHAPES: [number, number, number, number, number][] = [
  [2, 8, 3, 5, 8],
  [1, 8, 7, 5, 4],
  [3, 12, 1, 1, 4],
  [2, 12, 4, 3, 4],
  [1, 20, 2, 9, 4],
  [1, 4, 19, 23, 1],
  [1, 8, 17, 31, 2],
  [2, 6, 5, 3, 3],
  [2, 18, 3, 7, 3],
  [1, 24, 11, 19, 4],
];

const MODES = ['plain', 'silu', 'scale-shift', 'add'] as const;

const CASES = WAYS.flatMap((way) => SHAPES.map((shape) => [way, ...shape] as const));

describe.each(CASES)('%s group_norm N=%i C=%i %ix%i, %i groups', (way, n, c, h, w, groups) => {
  const runtime = runtimes[way]!;
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
      if (given && c % 4 === 0) e.gradient('de', y, upstream, tensor);
    });
    expectClose(found['y']!, evaluate(x, embedding), 5e-6);
    if (x.length > 600) {
      // Differences of the reference take the square of the size, so only along two directions.
      const dx = found['dx']!;
      for (const direction of [dx, values(x.length, 6)]) {
        const along = (step: number) => {
          const moved = Float64Array.from(x, (value, i) => value + step * direction[i]!);
          return inner(evaluate(moved, embedding), upstream);
        };
        const expected = (along(1e-4) - along(-1e-4)) / 2e-4;
        const scale = Math.sqrt(inner(dx, dx) * inner(direction, direction));
        expect(scale).toBeGreaterThan(0);
        expect(Math.abs(inner(dx, direction) - expected) / scale).toBeLessThan(2e-6);
      }
      return;
    }
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

test('forcing a way changes the kernels; by itself a CPU takes spans, a GPU a workgroup', () => {
  const shapes = new Map([
    ['op.weight', [64]],
    ['op.bias', [64]],
  ]);
  const shaders = (target: Partial<Target>, side: number) => {
    const graph = new Graph({ adapter: 'cpu', slowCompiler: false, ...target });
    const spec = groupNorm.normalization(64, true);
    const x = graph.input('x', { n: 1, c: 64, h: side, w: side });
    const y = groupNorm.forward({ graph, weights: new WeightShapes(shapes) }, spec, 'op', x);
    return schedule(graph, [y]).calls.map(({ shader }) => shader.name);
  };
  const three = ['group_norm/moments', 'group_norm/coefficients', 'group_norm/apply'];
  expect(shaders({ variants: { group_norm: 'segments' } }, 8)).toEqual(three);
  expect(shaders({ variants: { group_norm: 'spans' } }, 8)).toEqual(['group_norm/spans']);
  expect(shaders({}, 8)).toEqual(['group_norm/spans']);
  expect(shaders({}, 32)).toEqual(['group_norm/spans']);
  expect(shaders({}, 64)).toEqual(['group_norm/spans', 'group_norm/apply']);
  expect(shaders({ adapter: 'gpu' }, 8)).toEqual(['group_norm/workgroup']);
  expect(shaders({ adapter: 'gpu' }, 128)).toEqual(['group_norm/workgroup', 'group_norm/apply']);
});

test('subgroup operations only with the feature', () => {
  const bySubgroups = (target: Partial<Target>) => {
    const graph = new Graph({ adapter: 'gpu', slowCompiler: false, ...target });
    const weights = new WeightShapes(new Map(['op.weight', 'op.bias'].map((name) => [name, [64]])));
    const x = graph.input('x', { n: 1, c: 64, h: 8, w: 8 });
    const y = groupNorm.forward({ graph, weights }, groupNorm.normalization(64, true), 'op', x);
    return schedule(graph, [y]).calls.some((call) => kernelSource(call).includes('enable subgroups;'));
  };
  expect(bySubgroups({})).toBe(false);
  expect(bySubgroups({ variants: { group_norm: 'subgroups' } })).toBe(false);
  expect(bySubgroups({ features: new Set(['subgroups']) })).toBe(true);
});

test.each(WAYS)('%s: a mean far from zero costs no digits of the deviation', async (way) => {
  const shape = { n: 1, c: 4, h: 8, w: 8 };
  const x = values(size(shape), 1).map((value) => 1000 + value);
  const ones = new Float32Array(4).fill(1);
  const weights = checkpointOf({
    'op.weight': { shape: [4], data: ones },
    'op.bias': { shape: [4], data: new Float32Array(4) },
  });
  const found = await run(runtimes[way]!, weights, (e) => {
    e.output(
      'y',
      groupNorm.forward(e, { channels: 4, groups: 1, eps: 1e-5, silu: false }, 'op', e.input('x', shape, x)),
    );
  });
  const options = { groups: 1, eps: 1e-5, silu: false, gamma: ones, beta: [0, 0, 0, 0] };
  // The mean is known to 1000 * 2^-24 at best; E[x^2] - mean^2 would leave nothing of a variance of 1/3.
  expectClose(found['y']!, reference.groupNorm(x, shape, options), 2e-4);
});

test.each(WAYS)('%s: an embedding is read at its offset in a wider projection', async (way) => {
  const shape = { n: 2, c: 4, h: 2, w: 3 };
  const x = values(size(shape), 1);
  const wide = values(2 * 16, 2);
  const narrow = Float32Array.from([...wide.subarray(8, 16), ...wide.subarray(24, 32)]);
  const weights = checkpointOf({
    'op.weight': { shape: [4], data: values(4, 3) },
    'op.bias': { shape: [4], data: values(4, 4) },
  });
  const spec = { channels: 4, groups: 2, eps: 1e-5, silu: true };
  const found = await run(runtimes[way]!, weights, (e) => {
    const input = e.input('x', shape, x);
    const all = e.input('wide', { n: 2, h: 1, w: 1, c: 16 }, wide);
    const own = e.input('narrow', { n: 2, h: 1, w: 1, c: 8 }, narrow);
    e.output('a', groupNorm.forward(e, spec, 'op', input, { tensor: all, offset: 8, mode: 'scale-shift' }));
    e.output('b', groupNorm.forward(e, spec, 'op', input, { tensor: own, offset: 0, mode: 'scale-shift' }));
  });
  expect([...found['a']!]).toEqual([...found['b']!]);
});

describe.each(WAYS)('%s, averaged down by two', (way) => {
  const runtime = runtimes[way]!;
  const channels = 10;
  const spec = { channels, groups: 5, eps: 1e-5 };
  const weights = checkpointOf({
    'op.weight': { shape: [channels], data: values(channels, 2) },
    'op.bias': { shape: [channels], data: values(channels, 3) },
  });

  test.each([
    [6, 4, true],
    [7, 5, true],
    [2, 3, false],
    [40, 37, true],
  ])('%i x %i, SiLU %s: as the norm and two averages', async (h, w, silu) => {
    const shape = { n: 2, c: channels, h, w };
    const half = 2 * channels * (h >> 1) * (w >> 1);
    let shaders: string[] = [];
    const build = (together: boolean) => (e: Evaluation) => {
      const input = e.input('x', shape, values(size(shape), 1));
      const apart = () => ({
        normed: downsample(e.graph, groupNorm.forward(e, { ...spec, silu }, 'op', input)),
        straight: downsample(e.graph, input),
      });
      const { normed, straight } = together ? groupNorm.forwardDown(e, { ...spec, silu }, 'op', input) : apart();
      e.output('normed', normed);
      e.output('straight', straight);
      shaders = schedule(e.graph, [normed, straight]).calls.map(({ shader }) => shader.name);
      const both = add(e.graph, normed, scale(e.graph, straight, 0.5));
      e.gradient('dx', both, values(half, 4), input);
    };
    const found = await run(runtime, weights, build(true));
    expect(shaders.slice(-1)).toEqual(['group_norm/apply_down']);
    expect(shaders).not.toContain('resample/block_sum');
    const expected = await run(runtime, weights, build(false));
    for (const [name, values] of Object.entries(expected)) expectClose(found[name]!, values, 2e-6);
  });
});
