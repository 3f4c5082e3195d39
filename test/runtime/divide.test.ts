import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { linearPart } from '../../src/diffusion/ddim.ts';
import { adam, classifierGuidance, type GradientFilter, type GradientPlace } from '../../src/diffusion/guidance.ts';
import { buildStep, type SamplerPart } from '../../src/diffusion/step.ts';
import { ancestralUpdate } from '../../src/diffusion/step_operations.ts';
import * as attention from '../../src/layers/attention.ts';
import * as classifier from '../../src/layers/classifier.ts';
import * as conv2d from '../../src/layers/conv2d.ts';
import { add, concat, relu, repeat, scale, silu } from '../../src/layers/elementwise.ts';
import * as groupNorm from '../../src/layers/group_norm.ts';
import { bilinear, downsample, meanPixels, upsample, window } from '../../src/layers/resample.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { cpuDivision, type DivisionRule, divide, GPU_DIVISION } from '../../src/runtime/divide.ts';
import { Graph } from '../../src/runtime/graph.ts';
import { kernelSource } from '../../src/runtime/pipelines.ts';
import { Plan } from '../../src/runtime/plan.ts';
import type { Activation, Tensor } from '../../src/runtime/resources.ts';
import type { KernelCall } from '../../src/runtime/shader.ts';
import { SLICE_MS } from '../../src/runtime/submit.ts';
import { Weights } from '../../src/runtime/weights.ts';
import { checkpointOf, setEverything, testRuntime, values } from '../device.ts';
import { TINY, tinyModels } from '../models.ts';

const SHADERS = fileURLToPath(new URL('../../shaders', import.meta.url));

const whole = await testRuntime();
const HALVES = whole.device.features.has('shader-f16');
const MATRICES = whole.target.subgroupMatrix !== undefined;
/** Every workgroup by itself. */
const FINEST: DivisionRule = { flops: 1, bytes: 1, groups: 1 };
const divided = new Runtime(whole.device, { division: FINEST });
// One cache for both: what is compared is the same pipelines, and each is compiled once.
Object.assign(divided, { pipelines: whole.pipelines });
afterAll(() => divided.dispose());

const call = (grid: KernelCall['grid'], flops: number): KernelCall =>
  ({ grid, cost: { flops, bytes: 0 }, sizes: { COUNT: 1 }, constantSizes: false }) as unknown as KernelCall;

describe('divide', () => {
  const rule = { flops: 100, bytes: 100, groups: 4 };

  test('leaves alone what is not too large', () => {
    expect(divide(call([5, 3, 2], 100), rule)).toEqual([
      { first: [0, 0, 0], count: [5, 3, 2], cost: { flops: 100, bytes: 0 } },
    ]);
  });

  test.each<[KernelCall['grid'], number]>([
    [[16, 6, 1], 2700],
    [[16, 6, 1], 300],
    [[7, 5, 3], 101],
    [[7, 5, 3], 450],
    [[7, 5, 3], 1e9],
    [[1, 1, 9], 900],
    [[1, 100, 1], 333],
    [[65535, 2, 1], 1234],
  ])('a grid of %j and %i operations: each workgroup once, no part much over the limit', (grid, flops) => {
    const parts = divide(call(grid, flops), rule);
    const groups = grid[0] * grid[1] * grid[2];
    const seen = new Uint8Array(groups);
    for (const { first, count } of parts) {
      for (let z = 0; z < count[2]; z++)
        for (let y = 0; y < count[1]; y++)
          for (let x = 0; x < count[0]; x++)
            seen[((first[2] + z) * grid[1] + first[1] + y) * grid[0] + first[0] + x]!++;
    }
    expect(seen.every((times) => times === 1)).toBe(true);
    expect(parts.length).toBeGreaterThan(1);
    expect(parts.reduce((sum, { cost }) => sum + cost.flops, 0)).toBeCloseTo(flops, 3);
    const most = Math.max(rule.flops + (rule.groups * flops) / groups, flops / groups);
    for (const { cost } of parts) expect(cost.flops).toBeLessThanOrEqual(most * 1.001);
  });

  test('parts along x hold a multiple of the processors', () => {
    const parts = divide(call([16, 6, 1], 2700), rule);
    expect(parts.map(({ count }) => count)).toEqual(Array(24).fill([4, 1, 1]));
  });

  test('on a GPU, the largest convolution of ADM-64 stays whole, that of ADM-256 does not', () => {
    const cost = (spec: conv2d.Conv2d, size: number) => conv2d.cost(spec, { n: 1, c: spec.in, h: size, w: size }).flops;
    const adm64 = cost({ in: 384, out: 192, kernel: 3, stride: 1 }, 64);
    const adm256 = cost({ in: 512, out: 256, kernel: 3, stride: 1 }, 256);
    expect(divide(call([64, 24, 1], adm64), GPU_DIVISION).length).toBe(1);
    expect(divide(call([1024, 8, 1], adm256), GPU_DIVISION).length).toBeGreaterThan(1);
    expect(divide(call([16, 6, 1], adm64), cpuDivision(4)).length).toBeGreaterThan(10);
  });
});

test('a kernel sees the whole grid, and its lines keep their numbers', () => {
  const graph = new Graph(whole.target);
  relu(graph, graph.input('x', { n: 1, c: 4, h: 4, w: 4 }));
  const [own] = graph.operations[0]!.lower();
  const text = kernelSource(own!);
  const main = text.split('\n').findIndex((line) => line.includes('fn main'));
  expect(main).toBe(own!.shader.source.split('\n').findIndex((line) => line.includes('fn main')));
  expect(text.split('\n')[main]).toBe(
    'fn main(@builtin(global_invocation_id) id_in_part: vec3u) { let id = id_in_part + sizes.first_workgroup * vec3u(64, 1, 1); let groups = sizes.workgroups;',
  );
});

interface Case {
  readonly graph: Graph;
  readonly outputs: readonly Tensor[];
}

/** A graph's outputs, all its inputs and uniforms being set to something, and the shaders that were divided. */
async function outcome(runtime: Runtime, { graph, outputs }: Case, checkFinite = false) {
  const plan = await Plan.create(runtime, graph, outputs, { checkFinite });
  setEverything(plan, graph);
  await plan.run();
  const results: Float32Array[] = [];
  for (const tensor of outputs) results.push(await plan.readArray(tensor));
  const firstNonFinite = checkFinite ? await plan.firstNonFinite() : null;
  const { calls } = plan.schedule;
  const shaders = calls.flatMap((c) => (divide(c, runtime.division).length > 1 ? [c.shader.name] : []));
  const found = { results, shaders, dispatches: plan.dispatches, calls: calls.length, firstNonFinite };
  plan.dispose();
  return found;
}

/** A sampler's part that draws from the model's mean and variance, as ddpm's. */
const ANCESTRAL: SamplerPart = {
  key: 'ancestral',
  noise: 'counter',
  guides: 'mean',
  append: (graph, { x, start, mean, v, meanGradient, noise }) => ({
    step: ancestralUpdate(
      graph,
      { x, start, mean: null, v, gradient: meanGradient?.(() => mean) ?? null, noise: noise! },
      'learned_range',
    ),
  }),
};

const shape = (n: number, c: number, h: number, w: number) => ({ n, c, h, w });

const CONVOLUTIONS = checkpointOf({
  'a.weight': { shape: [36, 8, 3, 3], data: values(36 * 8 * 9, 1, 0.2) },
  'a.bias': { shape: [36], data: values(36, 2) },
  'b.weight': { shape: [70, 36, 3, 3], data: values(70 * 36 * 9, 3, 0.1) },
  'b.bias': { shape: [70], data: values(70, 4) },
  'c.weight': { shape: [33, 70, 1, 1], data: values(33 * 70, 5, 0.2) },
  'c.bias': { shape: [33], data: values(33, 6) },
});

const NORMS = checkpointOf(
  Object.fromEntries(
    ['a', 'b'].flatMap((name, i) => [
      [`${name}.weight`, { shape: [192], data: values(192, 7 + i) }],
      [`${name}.bias`, { shape: [192], data: values(192, 9 + i) }],
    ]),
  ),
);

const gradient = (graph: Graph, y: Activation, x: Activation): Activation =>
  graph.backward(y, graph.input('upstream', y.shape), x, add);

function step(runtime: Runtime, part: SamplerPart, at: GradientPlace, filter: GradientFilter | null): Case {
  const { unet: model, classifier } = tinyModels(runtime);
  const guidance = classifierGuidance(classifier, { conditional: true, at, filter });
  const settings = { model, guidance, shape: { ...TINY, n: 3 }, lowRes: null };
  const made = buildStep(runtime.target, settings, part, { dynamicThreshold: true, inpaint: true, hook: false });
  return { graph: made.graphs[0]!, outputs: Object.values(made.outputs).filter((t) => t !== null) };
}

const WAYS = [
  'registers',
  'winograd 2x2',
  'winograd 4x4',
  'workgroup',
  'split',
  ...(HALVES ? ['f16'] : []),
  ...(MATRICES ? ['matrix'] : []),
];
/** What linear layers take beside ways that only convolutions have. */
const LINEAR: Readonly<Record<string, string>> = { 'winograd 2x2': 'lanes', 'winograd 4x4': 'shared' };

/** Sizes are such that every kernel has more than one workgroup somewhere. */
const CASES: Readonly<Record<string, (runtime: Runtime) => Case>> = {
  ...Object.fromEntries(
    WAYS.map((way) => [
      `convolutions, ${way}`,
      (runtime: Runtime): Case => {
        const graph = new Graph({ ...runtime.target, variants: { conv2d: way, linear: LINEAR[way] ?? way } });
        const b = { graph, weights: new Weights(runtime, CONVOLUTIONS.tensors) };
        const x = graph.input('x', shape(2, 8, 21, 19));
        let y = conv2d.forward(b, { in: 8, out: 36, kernel: 3, stride: 1 }, 'a', x);
        y = conv2d.forward(b, { in: 36, out: 70, kernel: 3, stride: 2 }, 'b', y);
        y = conv2d.forward(b, { in: 70, out: 33, kernel: 1, stride: 1 }, 'c', y);
        const row = graph.input('row', shape(2, 70, 1, 1));
        const z = conv2d.forward(b, { in: 70, out: 33, kernel: 1, stride: 1 }, 'c', row);
        return { graph, outputs: [y, z, gradient(graph, y, x)] };
      },
    ]),
  ),
  'elementwise and resampling': (runtime) => {
    const graph = new Graph(runtime.target);
    const x = graph.input('x', shape(2, 20, 10, 12));
    const large = window(graph, upsample(graph, silu(graph, x)), { height: 19, width: 26, top: -1, left: 1 });
    const y = bilinear(graph, relu(graph, downsample(graph, scale(graph, large, 0.5))), 11, 13);
    const wide = graph.input('wide', shape(2, 252, 3, 3));
    const means = concat(graph, [meanPixels(graph, wide), meanPixels(graph, y)]);
    return {
      graph,
      outputs: [
        add(graph, y, silu(graph, y)),
        means,
        repeat(graph, y, 2),
        gradient(graph, y, x),
        gradient(graph, means, wide),
      ],
    };
  },
  ...Object.fromEntries(
    ['online', 'tiled', 'stepwise', ...(MATRICES ? ['matrix'] : [])].map((way) => [
      `attention, ${way}`,
      (runtime: Runtime): Case => {
        const graph = new Graph({ ...runtime.target, variants: { attention: way } });
        const qkv = graph.input('qkv', shape(2, 3 * 3 * 40, 9, 15));
        const y = attention.forward(graph, { heads: 3, width: 38 }, qkv);
        return { graph, outputs: [y, gradient(graph, y, qkv)] };
      },
    ]),
  ),
  ...Object.fromEntries(
    (['segments', 'spans', 'workgroup'] as const).map((way) => [
      `GroupNorm, ${way}`,
      (runtime: Runtime): Case => {
        const graph = new Graph({ ...runtime.target, variants: { group_norm: way } });
        const b = { graph, weights: new Weights(runtime, NORMS.tensors) };
        const x = graph.input('x', shape(2, 192, 9, 15));
        // Large enough for a dispatch of its own, and small enough to be made at once.
        const norm = (name: string, of: Activation) =>
          groupNorm.forward(b, groupNorm.normalization(192, true), name, of);
        const large = graph.input('large', shape(2, 192, 32, 48));
        const [y, z] = [norm('a', x), norm('b', large)];
        return { graph, outputs: [y, z, gradient(graph, y, x), gradient(graph, z, large)] };
      },
    ]),
  ),
  'log p(y)': (runtime) => {
    const graph = new Graph(runtime.target);
    const logits = graph.input('logits', shape(9, 12, 1, 1));
    const { selected, logProbs } = classifier.select(graph, logits, graph.inputArray('labels', 9));
    return { graph, outputs: [selected, logProbs, gradient(graph, selected, logits)] };
  },
  'a step of DDIM': (runtime) => step(runtime, linearPart('counter', true), 'xt', adam()),
  'a step of DDPM': (runtime) => step(runtime, ANCESTRAL, 'sample', null),
};

describe('divided as far as can be', () => {
  const met = new Set<string>();

  test.each(Object.entries(CASES))('%s: the same bits', async (_, build) => {
    const [expected, found] = [await outcome(whole, build(whole)), await outcome(divided, build(divided))];
    expect(expected.dispatches).toBe(expected.calls);
    expect(found.calls).toBe(expected.calls);
    expect(found.dispatches).toBeGreaterThan(found.calls);
    found.results.forEach((result, i) => {
      expect(result.some((value) => value !== 0)).toBe(true);
      expect(result.every(Number.isFinite)).toBe(true);
      expect(result).toEqual(expected.results[i]);
    });
    for (const shader of found.shaders) met.add(shader);
  });

  test('checkFinite looks at the whole of each operation', async () => {
    const found = await outcome(divided, CASES['elementwise and resampling']!(divided), true);
    expect(found.firstNonFinite).toBeNull();
    met.add('debug/find_nonfinite');
    const graph = new Graph(divided.target);
    const x = graph.input('x', shape(1, 4, 16, 40));
    const y = relu(graph, scale(graph, x, 3e38));
    const plan = await Plan.create(divided, graph, [y], { checkFinite: true });
    const data = new Float32Array(4 * 16 * 40);
    data[data.length - 1] = 10; // in the last part alone
    plan.write(x, data);
    await plan.run();
    expect(await plan.firstNonFinite()).toBe('scale');
    plan.dispose();
  });

  test('every shader has been divided', () => {
    const all = readdirSync(SHADERS, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.wgsl'))
      .map((file) => file.replace('.wgsl', ''));
    // These run when weights are loaded, not in plans.
    const loading = ['weights/pack_matrix', 'winograd/kernels', 'subgroup_matrix/pack_fragments'];
    const absent = all.filter(
      (name) =>
        (name === 'conv2d/workgroup_f16' && !HALVES) ||
        (name.startsWith('subgroup_matrix/') && !MATRICES && !loading.includes(name)),
    );
    const others = new Set([...loading, ...absent, 'subgroup_matrix/probe']);
    expect([...met, ...others].sort()).toEqual(all.sort());
  });
});

describe('the largest convolution of ADM-64', () => {
  const spec = { in: 384, out: 192, kernel: 3, stride: 1 } as const;
  const size = shape(1, spec.in, 64, 64);
  const parameters = checkpointOf({
    'op.weight': { shape: [192, 384, 3, 3], data: values(192 * 384 * 9, 1, 0.05) },
    'op.bias': { shape: [192], data: values(192, 2) },
  });
  const made = async (runtime: Runtime) => {
    const graph = new Graph({ ...runtime.target, variants: { conv2d: 'registers' } });
    const x = graph.input('x', size);
    const y = conv2d.forward({ graph, weights: new Weights(runtime, parameters.tensors) }, spec, 'op', x);
    const plan = await Plan.create(runtime, graph, [y]);
    plan.write(x, values(spec.in * 64 * 64, 3));
    return { plan, y };
  };

  test.runIf(whole.adapter.software)(
    'is many submits on a software adapter, each about as long as it should be',
    async () => {
      const divided = new Runtime(whole.device, { division: cpuDivision(2) });
      Object.assign(divided, { pipelines: whole.pipelines });
      const { plan, y } = await made(divided);
      expect(plan.schedule.calls.length).toBe(1);
      expect(plan.dispatches).toBeGreaterThan(10);
      const { device } = whole;
      const { queue } = device;
      const submit = queue.submit.bind(queue);
      let lengths: Promise<number>[] = [];
      let before = 0;
      queue.submit = (commands) => {
        submit(commands);
        const submitted = performance.now();
        lengths.push(
          queue.onSubmittedWorkDone().then(() => {
            const now = performance.now();
            const ms = now - Math.max(before, submitted);
            before = now;
            return ms;
          }),
        );
      };
      const original = { createBindGroup: device.createBindGroup, createBuffer: device.createBuffer };
      const refuse = () => {
        throw new Error('made during a run');
      };
      Object.assign(device, { createBindGroup: refuse, createBuffer: refuse });
      try {
        await plan.run(); // by guesses: one part a submit
        await divided.pacer.idle();
        expect(lengths.length).toBe(plan.dispatches);
        lengths = [];
        const expected = Math.min(plan.dispatches, Math.ceil(plan.runMs! / SLICE_MS));
        await plan.run(); // by measurement
        let taken = await Promise.all(lengths);
        expect(taken.length).toBeLessThanOrEqual(expected);
        expect(taken.length).toBeGreaterThan(0.7 * expected);
        // Of the run, not in milliseconds, and in the best of some runs: other work on the machine stretches all of one, or one
        // submit of it.
        const longest = () => Math.max(...taken) / taken.reduce((sum, ms) => sum + ms, 0);
        let least = longest();
        for (let more = 0; more < 8 && least >= 0.4; more++) {
          lengths = [];
          await plan.run();
          taken = await Promise.all(lengths);
          least = Math.min(least, longest());
        }
        if (expected >= 4) expect(least).toBeLessThan(0.4);
      } finally {
        queue.submit = submit;
        Object.assign(device, original);
      }
      const found = await plan.readArray(y);
      plan.dispose();
      divided.dispose();

      const none = { flops: Number.POSITIVE_INFINITY, bytes: Number.POSITIVE_INFINITY, groups: 1 };
      const undivided = new Runtime(whole.device, { division: none });
      Object.assign(undivided, { pipelines: whole.pipelines });
      const one = await made(undivided);
      expect(one.plan.dispatches).toBe(1);
      await one.plan.run();
      expect(await one.plan.readArray(one.y)).toEqual(found);
      one.plan.dispose();
      undivided.dispose();
    },
  );
});
