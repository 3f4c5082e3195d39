/** @file Waiting for a software adapter leaves it the processor. */
import { afterAll, expect, test } from 'vitest';
import * as attention from '../../src/layers/attention.ts';
import { requestNodeDevice } from '../../src/node/device.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { Graph } from '../../src/runtime/graph.ts';
import { Plan } from '../../src/runtime/plan.ts';

const { device, adapter } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
afterAll(() => device.destroy());

test.runIf(adapter.software)(
  'while work is awaited, the event loop turns at most twenty times a millisecond',
  async () => {
    const runtime = new Runtime(device);
    const graph = new Graph(runtime.target);
    const qkv = graph.input('qkv', { n: 1, h: 1, w: 2048, c: 3 * 64 });
    const out = attention.forward(graph, { heads: 1, width: 64 }, qkv);
    const plan = await Plan.create(runtime, graph, [out]);
    await plan.run();

    let [turns, waiting] = [0, true];
    const count = () => {
      turns++;
      if (waiting) setImmediate(count);
    };
    const started = performance.now();
    setImmediate(count);
    await plan.run();
    await plan.read(out);
    waiting = false;
    const ms = performance.now() - started;
    // The first two milliseconds, and the turns between two promises, may be as many as they like.
    const awake = 400;
    expect(turns).toBeLessThan(awake + 20 * ms);
    runtime.dispose();
  },
);

test('promises are fulfilled one after another and together', async () => {
  const buffers = [1, 2, 3].map(() =>
    device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }),
  );
  for (let i = 0; i < 3; i++) {
    await device.queue.onSubmittedWorkDone();
    await Promise.all(buffers.map((buffer) => buffer.mapAsync(GPUMapMode.READ)));
    for (const buffer of buffers) buffer.unmap();
  }
  const broken = device.createShaderModule({ code: '@compute @workgroup_size(1) fn other() {}' });
  device.pushErrorScope('validation');
  await expect(
    device.createComputePipelineAsync({ layout: 'auto', compute: { module: broken, entryPoint: 'main' } }),
  ).rejects.toThrow();
  await device.popErrorScope();
  for (const buffer of buffers) buffer.destroy();
});
