/**
 * @file No peer, but the yardstick: what the adapter reaches in multiply-adds and in copies, with nothing in the way.
 */
import { copyValues, FMA, type PeakCase } from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';

const THREADS = 64;
const REGISTERS = Array.from({ length: 16 }, (_, i) => `r${i}`);

let device: GPUDevice;

/** Sixteen independent chains, so that the latency of one does not show. */
const fmaSource = (steps: number): string => `
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = vec4f(f32(id.x % 64u) / 64.0) + vec4f(0.0, 1.0, 2.0, 3.0);
  let factor = vec4f(${FMA.factor});
  let summand = vec4f(${FMA.summand});
  ${REGISTERS.map((name, i) => `var ${name} = first + vec4f(${i}.0);`).join(' ')}
  for (var step = 0u; step < ${steps}u; step++) {
    ${REGISTERS.map((name) => `${name} = fma(${name}, factor, summand);`).join(' ')}
  }
  y[id.x] = ${REGISTERS.join(' + ')};
}`;

const COPY = `
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) n: vec3u) {
  let i = id.y * n.x * ${THREADS}u + id.x;
  if (i < arrayLength(&y)) {
    y[i] = x[i];
  }
}`;

async function workload(code: string, threads: number, input: Float32Array | null): Promise<Workload> {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const size = 16 * threads;
  const y = device.createBuffer({ size, usage });
  const buffers = [y];
  if (input) {
    const x = device.createBuffer({ size, usage });
    device.queue.writeBuffer(x, 0, input as Float32Array<ArrayBuffer>);
    buffers.push(x);
  }
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const across = Math.min(32768, Math.ceil(threads / THREADS));
  const run = () => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(across, Math.ceil(threads / THREADS / across));
    pass.end();
    device.queue.submit([encoder.finish()]);
  };
  return {
    run,
    async read() {
      run();
      const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(y, 0, staging, 0, size);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const values = new Float32Array(staging.getMappedRange().slice(0));
      staging.destroy();
      return values;
    },
    dispose() {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

export const contestant: Contestant = {
  async init() {
    const found = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (!found) throw new Error('no adapter');
    const { maxBufferSize, maxStorageBufferBindingSize } = found.limits;
    device = await found.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });
    return '';
  },
  fma: (c: PeakCase) => workload(fmaSource(c.steps), c.threads, null),
  copy: (c: PeakCase) => workload(COPY, c.threads, copyValues(c)),
};
