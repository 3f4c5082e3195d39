/** @file How a variant is taken: forced, measured, nearest, by cost; what the tuner measures, keeps and leaves alone. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { shapedModel } from '../../src/inspect/summary.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { buildNetwork } from '../../src/layers/network.ts';
import { requestNodeDevice } from '../../src/node/device.ts';
import { fileStore } from '../../src/node/tuning_store.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { pipelineKey } from '../../src/runtime/pipelines.ts';
import { Plan } from '../../src/runtime/plan.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { leastVisit, optionsOf } from '../../src/runtime/selection.ts';
import { shippedTable } from '../../src/runtime/shipped_tuning.ts';
import type { TunedShape } from '../../src/runtime/tuner.ts';
import { type Times, Tuning, type TuningStore } from '../../src/runtime/tuning.ts';
import { type Accuracy, type CallShape, type Family, variantsOf, wayOf } from '../../src/runtime/variants.ts';
import { Weights } from '../../src/runtime/weights.ts';
import { checkpointOf, expectClose, values } from '../device.ts';
import { TINY_CONFIGS } from '../models.ts';

const CPU: Target = { adapter: 'cpu', slowCompiler: false };

/** A family of a dear, a cheap, an inexact and a large way; what is taken is told by the call's name. */
const variant = (name: string, cost: number, accuracy: Accuracy = 'float32', least = 0) => ({
  name,
  accuracy: () => accuracy,
  note: '',
  fits: (_target: Target, size: number) => size >= least,
  cost: () => cost,
  lower: () => [{ shader: { name }, tiles: {}, switches: {}, sizes: {}, bind: {} }] as never,
});
const family: Family<number> = {
  kind: 'linear',
  variants: [
    variant('dear 4x2', 3),
    variant('cheap', 2),
    variant('inexact', 1, 'reduced'),
    variant('large', 0.5, 'float32', 1000),
  ],
  shape: (size) => ({ form: 'test', sizes: [size, 8] }),
};
function taken(target: Target, size = 16): string {
  const graph = new Graph(target);
  const operation = { name: 'test', inputs: [], outputs: [], ...variantsOf(graph, family, size) };
  graph.append(operation);
  return operation.lower()[0]!.shader.name;
}

/** A table of measured times of the family's variants, by size. */
const measured = (bySize: Readonly<Record<number, Times>>, compilation: Times = {}) =>
  new Tuning({
    times: {
      linear: { test: Object.fromEntries(Object.entries(bySize).map(([size, times]) => [`${size} 8`, times])) },
    },
    compilation,
  });

describe('a variant is taken', () => {
  test('by its cost, among those that fit and are exact enough', () => {
    expect(taken(CPU)).toBe('cheap');
    expect(taken(CPU, 1000)).toBe('large');
    expect(taken({ ...CPU, accuracy: 'reduced' })).toBe('inexact');
  });

  test('by force: a whole name, or the part before the tiles; even an inexact one, where it fits', () => {
    expect(taken({ ...CPU, variants: { linear: 'dear 4x2' } })).toBe('dear 4x2');
    expect(taken({ ...CPU, variants: { linear: 'dear' } })).toBe('dear 4x2');
    expect(taken({ ...CPU, variants: { linear: 'inexact' } })).toBe('inexact');
    expect(taken({ ...CPU, variants: { linear: 'large' } }), 'does not fit').toBe('cheap');
    expect(taken({ ...CPU, variants: { conv2d: 'dear' } }), 'another kind').toBe('cheap');
  });

  test('by what was fastest for this shape, or for the nearest one, if that is near', () => {
    const tuning = measured({ 16: { 'dear 4x2': 1, cheap: 50 }, 512: { cheap: 1 } });
    expect(taken({ ...CPU, tuning })).toBe('dear 4x2');
    expect(taken({ ...CPU, tuning }, 40)).toBe('dear 4x2');
    expect(taken({ ...CPU, tuning }, 400)).toBe('cheap');
    expect(taken({ ...CPU, tuning }, 2 ** 20), 'nothing known is near').toBe('large');
    expect(taken({ ...CPU, tuning, variants: { linear: 'cheap' } }), 'force counts more').toBe('cheap');
  });

  test('not by a name that is no more, nor one that does not fit', () => {
    const tuning = measured({ 16: { gone: 1 }, 17: { large: 1 }, 90: { 'dear 4x2': 1 } });
    expect(taken({ ...CPU, tuning })).toBe('dear 4x2');
  });

  test('by what it takes to compile too', () => {
    const times = { 16: { 'dear 4x2': 10, cheap: 11 } };
    const key = (name: string) => pipelineKey(variant(name, 1).lower()[0]!);
    const keyed = (dear: number) => ({ [key('dear 4x2')]: dear, [key('cheap')]: 0 });
    expect(taken({ ...CPU, tuning: measured(times, keyed(300)) })).toBe('dear 4x2');
    expect(taken({ ...CPU, tuning: measured(times, keyed(500)) }), '4 seconds save 400 ms').toBe('cheap');
  });
});

describe('a graph of several operations', () => {
  const lowered = (target: Target, sizes: readonly number[], graph = new Graph(target)) => {
    const operations = sizes.map((size) => {
      const operation = { name: 'test', inputs: [], outputs: [], ...variantsOf(graph, family, size) };
      graph.append(operation);
      return operation;
    });
    return operations.map(({ lower }) => lower()[0]!.shader.name);
  };
  const key = (name: string) => pipelineKey(variant(name, 1).lower()[0]!);
  const times = { 16: { 'dear 4x2': 10, cheap: 11 }, 999: { 'dear 4x2': 1000, cheap: 1001 } };
  const compilation = { [key('dear 4x2')]: 500, [key('cheap')]: 0 };

  test('counts how often a shape is called', () => {
    const tuning = measured(times, compilation);
    expect(lowered({ ...CPU, tuning }, [16])).toEqual(['cheap']);
    expect(lowered({ ...CPU, tuning }, Array(60).fill(16))).toEqual(Array(60).fill('dear 4x2'));
  });

  test('takes what another shape has compiled in any case', () => {
    const tuning = measured(times, compilation);
    expect(lowered({ ...CPU, tuning }, [16, 999])[0], 'it is not worth it for both together').toBe('cheap');
    const known = measured({ 16: times[16] }, compilation);
    // Nothing is known of the other, and it is dear by its own estimate.
    const dear = {
      ...family,
      variants: family.variants.map((v) => ({ ...v, cost: () => (v.name === 'dear 4x2' ? 0 : 1) })),
    };
    const graph = new Graph({ ...CPU, tuning: known });
    const far = { name: 'far', inputs: [], outputs: [], ...variantsOf(graph, dear, 2 ** 20) };
    graph.append(far);
    expect(lowered({ ...CPU, tuning: known }, [16], graph)).toEqual(['dear 4x2']);
    expect(far.lower()[0]!.shader.name).toBe('dear 4x2');
  });

  test('chooses anew when more is known', () => {
    const tuning = measured({ 16: { cheap: 1 } });
    const graph = new Graph({ ...CPU, tuning });
    expect(lowered(graph.target, [16], graph)).toEqual(['cheap']);
    tuning.learn({ kind: 'linear', form: 'test', sizes: [16, 8] }, { 'dear 4x2': 1 });
    expect(graph.operations[0]!.lower()[0]!.shader.name).toBe('dear 4x2');
  });

  test('compares with more variants where less exact ones may be taken', () => {
    const tuning = measured({ 16: { 'dear 4x2': 1 } });
    expect(taken({ ...CPU, tuning, accuracy: 'reduced' })).toBe('inexact');
  });
});

describe('a kept table', () => {
  const shape: CallShape = { form: 'test', sizes: [16, 8] };

  test('comes back', () => {
    const before = new Tuning();
    before.learn({ kind: 'linear', ...shape }, { 'dear 4x2': 1, cheap: 1.5, 'far behind': 2.5 });
    before.learnCompilation('some pipeline', 12);
    const after = new Tuning();
    after.restore(before.text());
    expect(after.has({ kind: 'linear', ...shape })).toBe(true);
    expect(after.compilationMs('some pipeline')).toBe(12);
    expect(after.measured.times.linear).toEqual({ test: { '16 8': { 'dear 4x2': 1, cheap: 1.5 } } });
    expect(taken({ ...CPU, tuning: after })).toBe('dear 4x2');
  });

  const versioned = (table: unknown, version = 7) => JSON.stringify({ version, table });
  const timed = (sizes: string, times: unknown) => ({
    times: { linear: { test: { [sizes]: times } } },
    compilation: {},
  });
  test('of this version and form is taken', () => {
    const tuning = new Tuning();
    tuning.restore(versioned(timed('1 2', { cheap: 1 })));
    expect(tuning.has({ kind: 'linear', form: 'test', sizes: [1, 2] })).toBe(true);
  });
  test.each([
    '',
    'no json',
    '[]',
    versioned(timed('1 2', { cheap: 1 }), 4),
    versioned({}),
    versioned({ times: {} }),
    versioned(timed('x', { cheap: 1 })),
    versioned(timed('1 2', { cheap: 'fast' })),
    versioned(timed('1 2', {})),
    versioned({ times: {}, compilation: { some: -1 } }),
  ])('is left alone if it is %j', (text) => {
    const tuning = new Tuning();
    tuning.restore(text);
    expect(tuning.measured).toEqual({ times: {}, compilation: {} });
  });

  test('lies in a file; a folder that cannot be made keeps nothing', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tuning-'));
    try {
      const store = fileStore(join(folder, 'made'));
      expect(await store.read('a/b')).toBe(null);
      await store.write('a/b', 'text');
      expect(await store.read('a/b')).toBe('text');
      expect(readdirSync(join(folder, 'made'))).toEqual(['tuning-a_b.json']);
      writeFileSync(join(folder, 'file'), '');
      const hopeless = fileStore(join(folder, 'file'));
      await hopeless.write('a', 'text');
      expect(await hopeless.read('a')).toBe(null);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

const { device } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
afterAll(() => device.destroy());
const weight = { shape: [8, 8, 3, 3], data: values(8 * 8 * 9, 1) };
const parameters = checkpointOf({ 'k.weight': weight, 'k.bias': { shape: [8], data: values(8, 2) } });
const input = { n: 1, h: 8, w: 8, c: 8 };

function convolution(runtime: Runtime) {
  const weights = new Weights(runtime, parameters.tensors);
  const graph = new Graph(runtime.target);
  const x = graph.input('x', input);
  const y = conv2d.forward({ graph, weights }, { in: 8, out: 8, kernel: 3, stride: 1 }, 'k', x);
  return { graph, weights, x, y };
}

async function result(runtime: Runtime): Promise<Float32Array> {
  const { graph, weights, x, y } = convolution(runtime);
  const plan = await Plan.create(runtime, graph, [y]);
  plan.write(x, values(8 * 64, 3));
  await plan.run();
  const found = await plan.read(y);
  plan.dispose();
  weights.dispose();
  return found;
}

/** The device under another adapter's name. */
const pretending = (own: GPUDevice, adapterInfo: object): GPUDevice =>
  new Proxy(own, {
    get: (target, name) => {
      if (name === 'adapterInfo') return adapterInfo;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });

describe('the tuner', () => {
  const shapes: TunedShape[] = [];
  const kept = new Map<string, string>();
  const store: TuningStore = {
    read: async (adapter) => kept.get(adapter) ?? null,
    write: async (adapter, text) => void kept.set(adapter, text),
  };
  const tuning = { software: true, store, onShape: (shape: TunedShape) => shapes.push(shape) };

  test('times every candidate of a shape once, takes one that is near the fastest, and keeps the times', async () => {
    const runtime = new Runtime(device, { tuning });
    runtime.placeholder('read', 0);
    const before = runtime.buffers.liveBytes;
    const plain = await result(new Runtime(device, { tuning: 'off' }));
    expectClose(await result(runtime), plain);
    expect(shapes).toHaveLength(1);
    const { times, choice } = shapes[0]!;
    const { choice: own } = convolution(runtime).graph.operations[0]!;
    expect(choice.sizes).toEqual([1, 8, 8, 8, 8]);
    expect(times.map(({ name }) => name).sort()).toEqual(
      own!
        .candidates()
        .map(({ name }) => name)
        .sort(),
    );
    for (const { ms } of times) expect(ms).toBeGreaterThan(0);
    const chosen = times.find(({ name }) => name === own!.chosen().name)!;
    expect(chosen.ms).toBeLessThanOrEqual(1.5 * times[0]!.ms);
    expect(kept.size).toBe(1);
    expect(runtime.buffers.liveBytes, 'nothing of the measuring stays').toBe(before);
    await result(runtime);
    expect(shapes, 'the same shape again').toHaveLength(1);
  });

  test('measures nothing that was kept from an earlier visit', async () => {
    const runtime = new Runtime(device, { tuning });
    await result(runtime);
    expect(shapes).toHaveLength(1);
  });

  test('measures nothing that is forced, nor without time, nor where it is off', async () => {
    const fresh = { ...tuning, store: undefined };
    await result(new Runtime(device, { tuning: fresh, variants: { conv2d: 'registers 4x1' } }));
    await result(new Runtime(device, { tuning: { ...fresh, budgetMs: 0 } }));
    expect(new Runtime(device, { tuning: 'off' }).tuner).toBe(null);
    expect(shapes).toHaveLength(1);
  });

  test('leaves software adapters to the shipped table, and takes GPUs', () => {
    const software = new Runtime(device);
    if (software.adapter.software) expect(software.tuner).toBe(null);
    const info = { vendor: 'x', architecture: 'y', device: '', description: 'a GPU', isFallbackAdapter: false };
    expect(new Runtime(pretending(device, info)).tuner).not.toBe(null);
  });

  test('times on a GPU a tile of each way, and some more of those that are not far behind', async () => {
    const info = { vendor: 'x', architecture: 'y', device: '', description: 'a GPU', isFallbackAdapter: false };
    const runtime = new Runtime(pretending(device, info), { tuning: { ...tuning, store: undefined } });
    await result(runtime);
    const { times } = shapes.pop()!;
    const candidates = convolution(runtime).graph.operations[0]!.choice!.candidates();
    const timed = new Set(times.map(({ name }) => name));
    expect(new Set([...timed].map(wayOf))).toEqual(new Set(candidates.map(({ name }) => wayOf(name))));
    for (const way of new Set([...timed].map(wayOf))) {
      const tiles = [...timed].filter((name) => wayOf(name) === way);
      expect(tiles).toContain(candidates.find(({ name }) => wayOf(name) === way)!.name);
      expect(tiles.length).toBeLessThanOrEqual(4);
    }
  });

  test('ends when it is aborted', async () => {
    const runtime = new Runtime(device, { tuning: { software: true, store: undefined } });
    const { graph, y } = convolution(runtime);
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(Plan.create(runtime, graph, [y], { signal })).rejects.toThrow('enough');
  });
});

describe('variants of a whole graph', () => {
  const option = (name: string, ms: number, ...pipelines: string[]) => ({ name, ms, pipelines });
  const chosen = (demands: Parameters<typeof leastVisit>[0], compilation: Times) => [
    ...leastVisit(demands, (key) => compilation[key]!, 10).values(),
  ];

  test('a faster one must make up for what it takes to compile', () => {
    const options = [option('fast', 5, 'a', 'b'), option('slow', 6, 'c')];
    const compilation = { a: 100, b: 50, c: 10 };
    const one = (count: number, free: Times = {}) =>
      chosen([{ key: 'x', count, options }], { ...compilation, ...free })[0];
    expect(one(1)).toBe('slow');
    expect(one(15), '10 steps of 15 calls save 150 ms').toBe('fast');
    expect(one(1, { a: 0, b: 0 }), 'compiled in any case').toBe('fast');
    expect(one(13)).toBe('slow');
    expect(one(13, { b: 0 }), 'compiled in part').toBe('fast');
  });

  test('shapes share a pipeline that none of them would take by itself', () => {
    const demands = ['x', 'y', 'z'].map((key) => ({
      key,
      count: 1,
      options: [option(`best of ${key}`, 1, key), option('of all', 1.5, 'all')],
    }));
    expect(chosen(demands, { x: 100, y: 100, z: 100, all: 120 })).toEqual(['of all', 'of all', 'of all']);
    expect(chosen(demands, { x: 4, y: 100, z: 100, all: 120 })).toEqual(['best of x', 'of all', 'of all']);
    expect(chosen(demands, { x: 10, y: 10, z: 10, all: 120 })).toEqual(['best of x', 'best of y', 'best of z']);
  });

  test('a tile that a table leaves out is taken to be slow, if it is known to compile', () => {
    const { graph } = convolution(new Runtime(device, { tuning: 'off' }));
    const all = graph.operations[0]!.choice!.candidates();
    const [first, second, third] = all.filter(({ name }) => wayOf(name) === 'registers');
    const other = all.find(({ name }) => wayOf(name) !== 'registers')!;
    const candidates = [first!, { ...second!, cost: 5 * first!.cost }, { ...third!, cost: 1.1 * first!.cost }, other];
    const measured = new Tuning();
    for (const { lower } of [first!, second!, other]) {
      for (const call of lower()) measured.learnCompilation(pipelineKey(call), 10);
    }
    const times = new Map([[first!.name, 3]]);
    const found = () => optionsOf(candidates, times, measured).map(({ name, ms }) => [name, ms]);
    expect(found()).toEqual([
      [first!.name, 3],
      [second!.name, 15],
    ]);
    for (const call of third!.lower()) measured.learnCompilation(pipelineKey(call), 10);
    expect(found()[2]).toEqual([third!.name, 6]);
  });

  test('are nearly always the best there are, where all can be tried', () => {
    let seed = 1;
    const random = () => {
      seed = (seed * 48271) % 2147483647;
      return seed / 2147483647;
    };
    let missed = 0;
    for (let trial = 0; trial < 200; trial++) {
      const compilation = Object.fromEntries(['a', 'b', 'c', 'd'].map((key) => [key, 400 * random()]));
      const demands = Array.from({ length: 4 }, (_, i) => ({
        key: `${i}`,
        count: 1 + Math.floor(3 * random()),
        options: ['a', 'b', 'c', 'd'].map((name) => option(name, 1 + 9 * random(), name)),
      }));
      const visit = (names: readonly string[]) =>
        demands.reduce(
          (sum, { count, options }, i) => sum + 10 * count * options.find((o) => o.name === names[i])!.ms,
          0,
        ) + [...new Set(names)].reduce((sum, name) => sum + compilation[name]!, 0);
      const all = [...'abcd'].flatMap((w) =>
        [...'abcd'].flatMap((x) => [...'abcd'].flatMap((y) => [...'abcd'].map((z) => [w, x, y, z]))),
      );
      const ratio = visit(chosen(demands, compilation)) / Math.min(...all.map(visit));
      expect(ratio).toBeLessThan(1.2);
      if (ratio > 1.001) missed++;
    }
    expect(missed).toBeLessThan(20);
  });
});

test('forcing a variant changes the pipeline, and not the result', async () => {
  const forced = (name: string) => new Runtime(device, { variants: { conv2d: name } });
  const keyOf = (runtime: Runtime) => pipelineKey(convolution(runtime).graph.operations[0]!.lower()[0]!);
  expect(keyOf(forced('registers 4x1'))).not.toBe(keyOf(forced('registers 4x2')));
  expectClose(await result(forced('registers 4x1')), await result(forced('registers 4x2')));
});

test('the shipped table of an H200 has convolutions of ADM-64 made by Winograd’s products in workgroup memory', () => {
  const info = {
    vendor: 'nvidia',
    architecture: '',
    device: 'nvidia-h200',
    description: 'NVIDIA: 580.159.04 580.159.4.0',
  };
  const table = shippedTable(info as GPUAdapterInfo)!;
  const target: Target = {
    adapter: 'gpu',
    slowCompiler: false,
    workgroupBytes: 49152,
    bindingBytes: 2 ** 31 - 4,
    tuning: new Tuning(table),
  };
  const flags =
    '--image_size 64 --num_channels 192 --num_res_blocks 3 --attention_resolutions 32,16,8 --num_head_channels 64 --resblock_updown True --learn_sigma True';
  const { graph } = buildNetwork(target, shapedModel(parseFlags(flags).config('unet')), { batch: 8 }, false);
  const large = graph.operations.filter(
    ({ choice }) => choice?.kind === 'conv2d' && choice.sizes[1]! >= 32 && Math.min(...choice.sizes.slice(3)) >= 192,
  );
  expect(large.length).toBeGreaterThan(20);
  for (const { choice } of large) expect(choice!.chosen().name).toMatch(/^winograd [24]x[24] workgroup /);
});

test.each(['SwiftShader driver 5.0.0', 'llvmpipe (LLVM 15.0.6, 256 bits)'])(
  'the shipped table of %s names variants that exist, and knows pipelines',
  (description) => {
    const { times, compilation } = shippedTable({
      vendor: '',
      architecture: '',
      device: '',
      description,
    } as GPUAdapterInfo)!;
    let names = 0;
    for (const [kind, forms] of Object.entries(times)) {
      for (const name of new Set(
        Object.values(forms).flatMap((shapes) => Object.values(shapes).flatMap(Object.keys)),
      )) {
        const target = { ...CPU, variants: { [kind]: name } };
        // A name that no variant has is refused.
        const model = shapedModel(TINY_CONFIGS[1]);
        const { graph, outputs } = buildNetwork(target, model, { batch: 1 }, true);
        expect(schedule(graph, [outputs.gradient!]).calls.length).toBeGreaterThan(0);
        names++;
      }
    }
    expect(names).toBeGreaterThan(5);

    const target = { ...CPU, tuning: new Tuning({ times, compilation }) };
    const flags =
      '--image_size 32 --num_channels 64 --channel_mult 1,2,2,2 --num_res_blocks 2 --attention_resolutions 16,8 --resblock_updown True';
    const { graph } = buildNetwork(target, shapedModel(parseFlags(flags).config('unet')), { batch: 1 }, false);
    const choices = graph.operations.flatMap(({ choice }) => choice ?? []);
    const known = choices.filter((c) => target.tuning.timesOf(c, new Set(c.candidates().map(({ name }) => name))));
    expect(known.length).toBeGreaterThan(0.9 * choices.length);
    const keys = new Set(known.flatMap((choice) => choice.chosen().lower().map(pipelineKey)));
    expect([...keys].filter((key) => compilation[key] === undefined)).toEqual([]);
  },
);
