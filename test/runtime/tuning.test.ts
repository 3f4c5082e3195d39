/** @file How a variant is taken: forced, measured, nearest, by cost; and what the tuner measures, keeps and leaves alone. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
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
import { shippedTable } from '../../src/runtime/shipped_tuning.ts';
import { best, type TunedShape } from '../../src/runtime/tuner.ts';
import { Tuning, type TuningStore } from '../../src/runtime/tuning.ts';
import { type Accuracy, type CallShape, type Family, variantsOf } from '../../src/runtime/variants.ts';
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
  lower: () => [{ shader: { name } }] as never,
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
const taken = (target: Target, size = 16): string =>
  variantsOf(new Graph(target), family, size).lower()[0]!.shader.name;

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
    const tuning = new Tuning({ linear: { test: { '16 8': 'dear 4x2', '512 8': 'cheap' } } });
    expect(taken({ ...CPU, tuning })).toBe('dear 4x2');
    expect(taken({ ...CPU, tuning }, 40)).toBe('dear 4x2');
    expect(taken({ ...CPU, tuning }, 400)).toBe('cheap');
    expect(taken({ ...CPU, tuning }, 2 ** 20), 'nothing known is near').toBe('large');
    expect(taken({ ...CPU, tuning, variants: { linear: 'cheap' } }), 'force counts more').toBe('cheap');
  });

  test('not by a name that is no more, nor one that does not fit', () => {
    const tuning = new Tuning({ linear: { test: { '16 8': 'gone', '17 8': 'large', '90 8': 'dear 4x2' } } });
    expect(taken({ ...CPU, tuning })).toBe('dear 4x2');
  });
});

describe('a kept table', () => {
  const shape: CallShape = { form: 'test', sizes: [16, 8] };

  test('comes back', () => {
    const before = new Tuning();
    before.learn({ kind: 'linear', ...shape }, 'dear 4x2');
    const after = new Tuning();
    after.restore(before.text());
    expect(after.has({ kind: 'linear', ...shape })).toBe(true);
    expect(taken({ ...CPU, tuning: after })).toBe('dear 4x2');
  });

  test.each(['', 'no json', '[]', '{"version":0,"table":{}}', '{"version":1,"table":{"linear":{"test":{"x":1}}}}'])(
    'is left alone if it is %j',
    (text) => {
      const tuning = new Tuning();
      tuning.restore(text);
      expect(tuning.measured).toEqual({});
    },
  );

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

describe('the tuner', () => {
  const shapes: TunedShape[] = [];
  const kept = new Map<string, string>();
  const store: TuningStore = {
    read: async (adapter) => kept.get(adapter) ?? null,
    write: async (adapter, text) => void kept.set(adapter, text),
  };
  const tuning = { software: true, store, onShape: (shape: TunedShape) => shapes.push(shape) };

  test('times every candidate of a shape once, takes the fastest, and keeps that', async () => {
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
    const { winner } = shapes[0]!;
    expect(own!.chosen().name).toBe(winner);
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
    const gpu = new Proxy(device, {
      get: (target, name) => {
        if (name === 'adapterInfo') return info;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    expect(new Runtime(gpu).tuner).not.toBe(null);
  });

  test('ends when it is aborted', async () => {
    const runtime = new Runtime(device, { tuning: { software: true, store: undefined } });
    const { graph, y } = convolution(runtime);
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(Plan.create(runtime, graph, [y], { signal })).rejects.toThrow('enough');
  });
});

test('a faster variant must make up for what it takes to compile', () => {
  const timed = (name: string, ms: number, ...compileMs: number[]) => ({
    name,
    ms,
    pipelines: compileMs.map((time, i) => ({ key: `${name} ${i}`, compileMs: time })),
  });
  const fast = timed('fast', 5, 100, 50);
  const slow = timed('slow', 6, 10);
  const winner = (count: number, ...needed: string[]) => best([fast, slow], count, new Set(needed))?.name;
  expect(winner(1)).toBe('slow');
  expect(winner(6), '25 steps of 6 calls save 150 ms').toBe('fast');
  expect(winner(1, 'fast 0', 'fast 1'), 'compiled in any case').toBe('fast');
  expect(winner(4, 'fast 1'), 'in part').toBe('fast');
  expect(best([fast, timed('far behind', 6.3)], 1, new Set())?.name).toBe('fast');
  expect(best([], 1, new Set())).toBe(undefined);
});

test('forcing a variant changes the pipeline, and not the result', async () => {
  const forced = (name: string) => new Runtime(device, { variants: { conv2d: name } });
  const keyOf = (runtime: Runtime) => pipelineKey(convolution(runtime).graph.operations[0]!.lower()[0]!);
  expect(keyOf(forced('registers 4x1'))).not.toBe(keyOf(forced('registers 4x2')));
  expectClose(await result(forced('registers 4x1')), await result(forced('registers 4x2')));
});

test.each(['SwiftShader driver 5.0.0', 'llvmpipe (LLVM 15.0.6, 256 bits)'])(
  'the shipped table of %s names variants that exist',
  (description) => {
    const table = shippedTable({ vendor: '', architecture: '', device: '', description } as GPUAdapterInfo);
    let names = 0;
    for (const [kind, forms] of Object.entries(table)) {
      for (const name of new Set(Object.values(forms).flatMap((winners) => Object.values(winners)))) {
        const target = { ...CPU, variants: { [kind]: name } };
        // A name that no variant has is refused.
        const model = shapedModel(TINY_CONFIGS[1]);
        const { graph, outputs } = buildNetwork(target, model, { batch: 1 }, true);
        expect(schedule(graph, [outputs.gradient!]).calls.length).toBeGreaterThan(0);
        names++;
      }
    }
    expect(names).toBeGreaterThan(5);
  },
);
