/** @file A concatenation that kernels read from its parts: as from a copy, and no copy. */
import { describe, expect, test } from 'vitest';
import addShader from '../../shaders/elementwise/add.wgsl';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { add, concat, relu } from '../../src/layers/elementwise.ts';
import * as groupNorm from '../../src/layers/group_norm.ts';
import { downsample, upsample } from '../../src/layers/resample.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { joined, readingParts } from '../../src/runtime/joined_reads.ts';
import type { Activation } from '../../src/runtime/resources.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { kernelCall, type Shader } from '../../src/runtime/shader.ts';
import { checkpointOf, expectClose, run, size, testRuntime, values } from '../device.ts';

const runtime = await testRuntime();
const gpu: Target = { ...runtime.target, adapter: 'gpu' };

const place = { n: 2, h: 6, w: 5 };
const [first, second, out] = [8, 6, 7];
const channels = first + second;
const weights = checkpointOf({
  'norm.weight': { shape: [channels], data: values(channels, 1) },
  'norm.bias': { shape: [channels], data: values(channels, 2) },
  'conv.weight': { shape: [out, channels, 3, 3], data: values(out * channels * 9, 3, 0.3) },
  'conv.bias': { shape: [out], data: values(out, 4) },
  'skip.weight': { shape: [out, channels, 1, 1], data: values(out * channels, 5, 0.3) },
  'skip.bias': { shape: [out], data: values(out, 6) },
});

type Layers = Pick<Evaluation, 'graph' | 'weights'>;
const norm = (e: Layers, x: Activation) =>
  groupNorm.forward(e, { channels, groups: 7, eps: 1e-5, silu: true }, 'norm', x);
const conv = (e: Layers, x: Activation) => conv2d.forward(e, { in: channels, out, kernel: 3, stride: 1 }, 'conv', x);
const skip = (e: Layers, x: Activation) => conv2d.forward(e, { in: channels, out, kernel: 1, stride: 1 }, 'skip', x);

/** What may read a concatenation, and the variants it takes: each kind of kernel once, since they are slow to compile. */
const READERS: Readonly<Record<string, [(e: Layers, x: Activation) => Activation, Target['variants']]>> = {
  'a norm by workgroups, made in the load of Winograd’s 4 x 4, and a product in workgroup memory': [
    (e, x) => add(e.graph, conv(e, norm(e, x)), skip(e, x)),
    { group_norm: 'workgroup', conv2d: 'winograd 4x4', linear: 'workgroup' },
  ],
  'a norm in segments, and a product in registers': [
    (e, x) => add(e.graph, skip(e, norm(e, x)), skip(e, x)),
    { group_norm: 'segments', linear: 'registers' },
  ],
  'both operands of a sum': [(e, x) => add(e.graph, x, x), {}],
  'an average': [(e, x) => downsample(e.graph, x), {}],
  'an enlargement': [(e, x) => relu(e.graph, upsample(e.graph, x)), {}],
};

test.each(Object.entries(READERS))('%s: as from a copy, which is not made', async (_, [read, variants]) => {
  const shapes = [first, second].map((c) => ({ ...place, c }));
  let shaders: string[] = [];
  const build = (e: Evaluation) => {
    const [a, b] = shapes.map((shape, i) => e.input(`part ${i}`, shape, values(size(shape), 10 + i)));
    const y = read(e, concat(e.graph, [relu(e.graph, a!), relu(e.graph, b!)]));
    shaders = schedule(e.graph, [y]).calls.map(({ shader }) => shader.name);
    e.output('y', y);
    e.gradient('db', y, values(size(y.shape), 20), b!);
  };
  const found = await run(runtime, weights, build, { ...gpu, variants });
  expect(shaders.filter((name) => name.includes('in two parts')).length).toBeGreaterThan(0);
  expect(shaders).not.toContain('elementwise/copy_channels');
  const copied = await run(runtime, weights, build, { ...gpu, variants, adapter: 'cpu' });
  expect(shaders).toContain('elementwise/copy_channels');
  expect(shaders.filter((name) => name.includes('in two parts'))).toEqual([]);
  expectClose(found['y']!, copied['y']!, 2e-6);
  expectClose(found['db']!, copied['db']!, 5e-6);
});

test('a concatenation that is an output is made; of three parts it is always made', () => {
  const names = (count: number, asOutput: boolean) => {
    const graph = new Graph(gpu);
    const parts = Array.from({ length: count }, (_, i) => relu(graph, graph.input(`${i}`, { ...place, c: 4 })));
    const x = concat(graph, parts);
    const y = relu(graph, x);
    return schedule(graph, asOutput ? [y, x] : [y]).calls.map(({ shader }) => shader.name);
  };
  const [one, two] = ['elementwise/relu', 'elementwise/relu (x in two parts)'];
  expect(names(2, false)).toEqual([one, one, two]);
  expect(names(2, true)).toEqual([one, one, 'elementwise/copy_channels', two]);
  expect(names(3, false)).toContain('elementwise/copy_channels');
});

describe('what is exchanged', () => {
  const shader = (source: string, more: readonly string[] = []): Shader =>
    ({
      ...addShader,
      name: 'test',
      source: `@group(0) @binding(0) var<storage, read> a: array<vec4f>;\n${source}`,
      bindings: ['a', ...more].map((name, index) => ({ name, index, access: 'read' })),
    }) as unknown as Shader;

  test('every read of the binding, with reads in its index, and nothing else', () => {
    const { source } = joined(shader('y[i] = a[b[i] + a[2u * (i + 1u)]] + data[i] + s.a[1];'), 'a');
    expect(source).toContain('y[i] = quad_of_a(b[i] + quad_of_a(2u * (i + 1u))) + data[i] + s.a[1];');
  });

  test('not in a kernel that has all bindings already, nor of a binding that is passed on or no vec4f', () => {
    const graph = new Graph(gpu);
    const part = () => graph.input('part', { ...place, c: 4 });
    const a = concat(graph, [part(), part()]);
    const changed = (given: Shader) => {
      const call = {
        ...kernelCall(addShader, {
          bind: { a, b: a, y: a },
          sizes: { COUNT: 1 },
          grid: [1, 1, 1],
          cost: { flops: 0, bytes: 0 },
        }),
        shader: given,
        bind: { a },
      };
      return readingParts(call, gpu).shader !== given;
    };
    const names = (count: number) => Array.from({ length: count }, (_, i) => `more${i}`);
    expect(changed(shader('let v = a[0];', names(6)))).toBe(true);
    expect(changed(shader('let v = a[0];', names(7)))).toBe(false);
    expect(changed(shader('let v = load(&a);'))).toBe(false);
    expect(changed({ ...shader(''), source: 'var<storage, read> a: array<f32>;' })).toBe(false);
  });
});
