/**
 * @file What this device can do at most, measured: multiply-adds, copying, and how soon one dispatch follows another.
 * Everything else is reported as a share of it.
 */
import type { Runtime } from '../src/runtime/device.ts';
import { type Clock, type MeasureOptions, measure, type Task } from '../src/runtime/measure.ts';

export interface Peak {
  /** Operations a second, two for a multiply-add: of a loop of vectors or of scalars, whichever is faster. */
  readonly flops: number;
  /** Bytes a second, read and written. */
  readonly bandwidth: number;
  /** Milliseconds of an empty dispatch. */
  readonly launchMs: number;
  /** Size of the copy. */
  readonly copyBytes: number;
}

const THREADS = 64;
const ITERATIONS = 256;

/** Values that an invocation multiplies and adds, in independent chains, so that latency does not count. */
const VALUES = 32;

/**
 * A loop of multiply-adds, in vectors or in scalars: which is faster depends on the compiler. Of vec4f, NVIDIA's driver for
 * an H200 makes half of what it makes of scalars.
 */
function fmaLoop(type: 'vec4f' | 'f32'): string {
  const part = type === 'f32' ? '.x' : '';
  const names = Array.from({ length: VALUES / (type === 'f32' ? 1 : 4) }, (_, i) => `a${i}`);
  return /* wgsl */ `
@group(0) @binding(0) var<storage, read_write> data: array<vec4f>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = data[0]${part};
  let b = data[1]${part};
  ${names.map((name, i) => `var ${name} = m + f32(id.x + ${i}u);`).join('\n  ')}
  for (var k = 0u; k < ${ITERATIONS}u; k++) {
    ${names.map((name) => `${name} = fma(${name}, m, b);`).join('\n    ')}
  }
  // Never true, but no compiler knows, so the loop is not dropped.
  let sum = vec4f(${names.join(' + ')});
  if (sum.x == 12345.678) { data[2] = sum; }
}`;
}

const COPY = /* wgsl */ `
@group(0) @binding(0) var<storage, read> source: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4f>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) n: vec3u) {
  let i = id.x + id.y * n.x * ${THREADS}u;
  if (i < arrayLength(&target_)) { target_[i] = source[i]; }
}`;

const EMPTY = /* wgsl */ `@compute @workgroup_size(1) fn main() {}`;

/** Workgroups of an FMA loop: enough to fill the largest GPU, few on a CPU. */
const GROUPS = { gpu: 8192, cpu: 64 } as const;
const COPY_BYTES = { gpu: 256 * 2 ** 20, cpu: 32 * 2 ** 20 } as const;

export async function measurePeak(runtime: Runtime, clock: Clock, options: MeasureOptions = {}): Promise<Peak> {
  const { device, buffers, limits, target } = runtime;
  const { STORAGE, COPY_DST } = GPUBufferUsage;
  const copyBytes = Math.min(COPY_BYTES[target.adapter], limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  const factors = buffers.create('peak factors', 48, STORAGE | COPY_DST);
  device.queue.writeBuffer(factors, 0, new Float32Array([...Array(4).fill(0.999), ...Array(4).fill(1e-3)]));
  const source = buffers.create('copy source', copyBytes, STORAGE);
  const goal = buffers.create('copy target', copyBytes, STORAGE);
  try {
    const fma = (type: 'vec4f' | 'f32') => kernel(device, fmaLoop(type), [factors], [GROUPS[target.adapter], 1, 1]);
    const [vectors, scalars] = [await fma('vec4f'), await fma('f32')];
    const groups = Math.ceil(copyBytes / 16 / THREADS);
    const rows = Math.ceil(groups / 65535);
    const copy = await kernel(device, COPY, [source, goal], [Math.ceil(groups / rows), rows, 1]);
    const empty = await kernel(device, EMPTY, [], [1, 1, 1]);
    const [v, f, c, e] = await measure(clock, [vectors, scalars, copy, empty], options);
    const operations = GROUPS[target.adapter] * THREADS * ITERATIONS * VALUES * 2;
    return {
      flops: operations / (Math.min(v!.ms, f!.ms) / 1e3),
      bandwidth: (2 * copyBytes) / (c!.ms / 1e3),
      launchMs: e!.ms,
      copyBytes,
    };
  } finally {
    for (const buffer of [factors, source, goal]) buffers.destroy(buffer);
  }
}

async function kernel(
  device: GPUDevice,
  code: string,
  bound: readonly GPUBuffer[],
  grid: readonly [number, number, number],
): Promise<Task> {
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' } });
  const group =
    bound.length > 0
      ? device.createBindGroup({
          layout: pipeline.getBindGroupLayout(0),
          entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })),
        })
      : null;
  return {
    name: 'peak',
    encode: (pass) => {
      pass.setPipeline(pipeline);
      if (group) pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid);
    },
  };
}
