/**
 * @file Finds out in a process of its own whether a driver compiles and runs kernels with matrices held by a subgroup.
 *
 * The feature is experimental on both sides: drivers have crashed on such kernels, and a crash takes its process along.
 */
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import probe from '../../shaders/subgroup_matrix/probe.wgsl';
import { olderSyntax, type SubgroupMatrix } from '../runtime/subgroup_matrix.ts';
import { expandTiles } from '../runtime/tiles.ts';

const TIMEOUT_MS = 30_000;

/** What the other process runs: y of small whole numbers, which every format holds exactly. */
const CHILD = /* js */ `
const { webgpu, options, codes, m, n, k } = JSON.parse(process.argv[1]);
const { create, globals } = await import(webgpu);
Object.assign(globalThis, globals);
const gpu = (globalThis.kept = create(options)); // it must outlive its devices
const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'chromium-experimental-subgroup-matrix'] });
const HALVES = [0, 0x3c00, 0x4000, 0x4200]; // 0, 1, 2 and 3 as float16
const { STORAGE, COPY_DST, COPY_SRC, MAP_READ } = GPUBufferUsage;
const filled = (count, valueOf) => {
  const buffer = device.createBuffer({ size: 2 * count, usage: STORAGE | COPY_DST });
  device.queue.writeBuffer(buffer, 0, Uint16Array.from({ length: count }, (_, i) => HALVES[valueOf(i)]));
  return buffer;
};
const a = (i) => (5 * i) % 4;
const b = (i) => (7 * i + (i >> 3)) % 4;
const works = async (code) => {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  await device.popErrorScope();
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' } });
  const y = device.createBuffer({ size: 4 * m * n, usage: STORAGE | COPY_SRC });
  const staging = device.createBuffer({ size: 4 * m * n, usage: MAP_READ | COPY_DST });
  const buffers = [filled(m * k, a), filled(k * n, b), y];
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, staging, 0, 4 * m * n);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  return new Float32Array(staging.getMappedRange()).every((found, i) => {
    let sum = 0;
    for (let j = 0; j < k; j++) sum += a(Math.floor(i / n) * k + j) * b(j * n + (i % n));
    return found === 2 * sum;
  });
};
for (const code of codes) if (await works(code).catch(() => false)) process.exit(0);
process.exit(1);
`;

/**
 * @param options of Dawn's instance, which the other process makes anew
 * @param shape of the matrices
 */
export function subgroupMatrixWorks(options: readonly string[], shape: SubgroupMatrix): Promise<boolean> {
  const { m, n, k, subgroup } = shape;
  const code = expandTiles(probe.source, { M: m, N: n, K: k, LANES: subgroup });
  const webgpu = pathToFileURL(createRequire(import.meta.url).resolve('webgpu')).href;
  const args = JSON.stringify({ webgpu, options, codes: [code, olderSyntax(code)], m, n, k });
  const child = spawn(process.execPath, ['--input-type=module', '--eval', CHILD, args], {
    stdio: 'ignore',
    timeout: TIMEOUT_MS,
  });
  return new Promise((resolve) => {
    child.on('error', () => resolve(false));
    child.on('exit', (status) => resolve(status === 0));
  });
}
