import { describe, expect, test } from 'vitest';
import { ddim, linearPart } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { classifierFreeGuidance, classifierGuidance } from '../../src/diffusion/guidance.ts';
import { relu } from '../../src/layers/elementwise.ts';
import { requestNodeDevice } from '../../src/node/device.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { Graph } from '../../src/runtime/graph.ts';
import { Plan } from '../../src/runtime/plan.ts';
import { SLICE_MS } from '../../src/runtime/submit.ts';
import { testRuntime, values } from '../device.ts';
import { shippedModels } from '../models.ts';

const runtime = await testRuntime();

/** Counts what a run must not do any more, and what it does. */
const COUNTED = [
  'createBuffer',
  'createBindGroup',
  'createBindGroupLayout',
  'createPipelineLayout',
  'createShaderModule',
  'createComputePipeline',
  'createComputePipelineAsync',
] as const;

function countCalls(device: GPUDevice) {
  const counts: Record<string, number> = { submit: 0 };
  for (const name of COUNTED) {
    counts[name] = 0;
    const original = device[name].bind(device) as (...args: unknown[]) => unknown;
    Object.assign(device, {
      [name]: (...args: unknown[]) => {
        counts[name]!++;
        return original(...args);
      },
    });
  }
  const submit = device.queue.submit.bind(device.queue);
  device.queue.submit = (buffers) => {
    counts['submit']!++;
    return submit(buffers);
  };
  return counts;
}

describe('a run', () => {
  test('makes nothing after its plan is built, and submits once a step, or once a slice', async () => {
    const { device } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
    const counts = countCalls(device);
    const own = new Runtime(device);
    const { unet, classifier } = shippedModels(own);
    const denoiser = new Denoiser(own, { unet, guidance: classifierGuidance(classifier), batch: 1 });
    let before: Record<string, number> | null = null;
    let evaluationMs = 0; // of the step before, by which the next one is cut
    for await (const step of ddim(denoiser, { labels: [3], respacing: 'ddim10', scale: 2, eta: 0.5 })) {
      if (before) {
        const made = COUNTED.map((name) => counts[name]! - before![name]!);
        expect(made, COUNTED.join()).toEqual(COUNTED.map(() => 0));
        const submits = counts['submit']! - before['submit']!;
        expect(submits).toBeGreaterThanOrEqual(1);
        // As many as slices of that length make up, and one more where the evaluation ends.
        expect(submits).toBeLessThanOrEqual(Math.ceil(evaluationMs / SLICE_MS) + 1);
      }
      await own.pacer.idle();
      const part = { ...linearPart('counter'), append: () => Promise.reject() as never };
      const stepper = await denoiser.stepper(part, { dynamicThreshold: false, inpaint: false, hook: false });
      evaluationMs = stepper.evaluationMs!;
      before = { ...counts };
      expect(step.count).toBe(10);
    }
    expect(counts['createBindGroup']).toBeGreaterThan(100);
    denoiser.dispose();
    own.dispose();
    device.destroy();
  });

  test('live bytes rise with models and plans, and return to zero with their disposal', async () => {
    const { device } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
    const own = new Runtime(device);
    expect(own.buffers.liveBytes).toBe(0);
    const { unet, classifier } = shippedModels(own);
    const guided = new Denoiser(own, { unet, guidance: classifierGuidance(classifier), batch: 2 });
    const free = new Denoiser(own, { unet, guidance: classifierFreeGuidance(), batch: 1 });
    for (const [denoiser, labels] of [
      [guided, [1, 2]],
      [free, [0]],
    ] as const) {
      for await (const step of ddim(denoiser, { labels, respacing: 'ddim2' })) await step.sample();
    }
    const all = own.buffers.liveBytes;
    const weights = unet.weights.bytes + classifier.weights.bytes;
    expect(weights).toBeGreaterThan(4 * 1.9e6);
    expect(all).toBeGreaterThan(weights);

    guided.dispose();
    free.dispose();
    await own.pacer.idle();
    await Promise.resolve();
    unet.dispose();
    classifier.dispose();
    own.dispose();
    expect(own.buffers.liveBytes).toBe(0);
    device.destroy();
  });

  test('plans and models free what is theirs on their own', async () => {
    const baseline = runtime.buffers.liveBytes;
    const graph = new Graph(runtime.target);
    const x = graph.input('x', { n: 1, c: 3, h: 5, w: 5 });
    const y = relu(graph, x);
    const plan = await Plan.create(runtime, graph, [y]);
    expect(runtime.buffers.liveBytes).toBeGreaterThan(baseline);
    plan.dispose();
    expect(runtime.buffers.liveBytes).toBe(baseline);
    await expect(plan.run()).rejects.toThrow('disposed');
    await expect(plan.read(y)).rejects.toThrow('disposed');
  });
});

describe('a plan', () => {
  const shape = { n: 1, c: 5, h: 3, w: 2 };

  async function reluPlan() {
    const graph = new Graph(runtime.target);
    const x = graph.input('x', shape);
    const y = relu(graph, x);
    return { x, y, plan: await Plan.create(runtime, graph, [y]) };
  }

  test('can be run again with other inputs, and read by several at once', async () => {
    const { x, y, plan } = await reluPlan();
    for (const seed of [1, 2]) {
      const data = values(30, seed);
      plan.write(x, data);
      await plan.run();
      const [a, b] = await Promise.all([plan.read(y), plan.read(y)]);
      expect([...a]).toEqual([...data].map((v) => Math.max(v, 0)));
      expect(b).toEqual(a);
    }
    plan.dispose();
  });

  test('refuses the wrong number of values, and tensors it does not have', async () => {
    const { x, plan } = await reluPlan();
    expect(() => plan.write(x, new Float32Array(29))).toThrow('expected 30 values for [1, 5, 3, 2], found 29');
    const stranger = new Graph(runtime.target).input('stranger', shape);
    expect(() => plan.write(stranger, new Float32Array(30))).toThrow('stranger');
    await expect(plan.read(x)).rejects.toThrow('not an output');
    plan.dispose();
  });

  test('stops at a signal that is aborted', async () => {
    const { x, plan } = await reluPlan();
    plan.write(x, values(30, 1));
    await expect(plan.run(AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
    plan.dispose();
  });

  test('states a tensor that is too large for the device, by name', async () => {
    const graph = new Graph(runtime.target);
    const side = Math.ceil(Math.sqrt(runtime.limits.maxBufferSize / 16)) + 1;
    const y = relu(graph, graph.input('huge', { n: 1, c: 4, h: side, w: side }));
    await expect(Plan.create(runtime, graph, [y])).rejects.toThrow(/(relu|huge) needs \d+ bytes; this device allows/);
  });

  test('a lost device rejects with a typed error instead of zeros', async () => {
    const { device } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
    const own = new Runtime(device);
    const graph = new Graph(own.target);
    const y = relu(graph, graph.input('x', shape));
    const plan = await Plan.create(own, graph, [y]);
    device.destroy();
    await device.lost;
    await new Promise((resolve) => setTimeout(resolve, 0));
    await expect(plan.run()).rejects.toMatchObject({ code: 'device-lost' });
    await expect(plan.read(y)).rejects.toMatchObject({ code: 'device-lost' });
  });
});
