/**
 * @file Compiles kernel calls into pipelines, each once, all at the same time.
 *
 * A size is a pipeline constant, or a field of a uniform block that this module adds to the text: then one pipeline
 * serves every shape, which is what a first visit and a software adapter wait for. The block also says which part of the
 * grid a dispatch is, so that a large one can be divided (divide.ts) without a word of it in any shader.
 */
import type { Runtime } from './device.ts';
import { DeviceError } from './errors.ts';
import type { Grid, KernelCall, Shader } from './shader.ts';
import { olderSyntax, usesSubgroupMatrix } from './subgroup_matrix.ts';
import { expandTiles } from './tiles.ts';
import { readWeightsAs, weightFormat } from './weight_formats.ts';
import { sumBySubgroups } from './workgroup_sums.ts';

export interface Binding {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
}

export interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Names and order of the sizes in the uniform block, at binding `sizesBinding`; empty if sizes are constants. */
  readonly uniformSizes: readonly string[];
  readonly sizesBinding: number;
}

/** Identifies a pipeline: equal keys compile to the same thing. */
export function pipelineKey(call: KernelCall): string {
  const list = (record: Readonly<Record<string, unknown>>) =>
    Object.keys(record)
      .sort()
      .map((name) => `${name}=${record[name]}`)
      .join();
  return [
    call.shader.name,
    list(call.tiles),
    list(call.switches),
    call.constantSizes ? list(call.sizes) : '',
    weightFormat(call),
    call.subgroups ? 'subgroups' : '',
  ].join('|');
}

/** The text a device compiles. */
export function kernelSource(call: KernelCall): string {
  let text = readWeightsAs(expandTiles(call.shader.source, call.tiles), weightFormat(call));
  if (call.subgroups) text = sumBySubgroups(text);
  const names = uniformSizes(call);
  if (names.length === 0) return text;
  for (const name of names) {
    text = text
      .replace(new RegExp(`^[ \\t]*override\\s+${name}\\b[^;]*;`, 'm'), '')
      .replace(new RegExp(`\\b${name}\\b`, 'g'), `sizes.${name}`);
  }
  const fields = names.map((name) => `  ${name}: ${call.shader.sizes[name]},`).join('\n');
  const binding = call.shader.bindings.length;
  return `${seeWholeGrid(text)}
struct Sizes {
  first_workgroup: vec3u,
  workgroups: vec3u,
${fields}
}
@group(0) @binding(${binding}) var<uniform> sizes: Sizes;
`;
}

/** What a built-in value is in the whole grid, from what it is in one part of it. */
const IN_WHOLE_GRID: Readonly<Record<string, (own: string, threads: string) => string>> = {
  global_invocation_id: (own, threads) => `${own} + sizes.first_workgroup * vec3u(${threads})`,
  workgroup_id: (own) => `${own} + sizes.first_workgroup`,
  num_workgroups: () => 'sizes.workgroups',
};

/** Gives `main` the indices of the whole grid, whichever part of it is dispatched. Line numbers stay. */
function seeWholeGrid(text: string): string {
  const size = /@workgroup_size\(([^)]*)\)/.exec(text)![1]!.split(',');
  const threads = [...size, '1', '1'].slice(0, 3).join(', ');
  return text.replace(/\bfn\s+main\s*\(([^{]*)\)\s*\{/, (_, parameters: string) => {
    const kept: string[] = [];
    const values: string[] = [];
    for (const [parameter, builtin, name] of parameters.matchAll(/@builtin\((\w+)\)\s+(\w+)\s*:\s*\w+/g)) {
      const inWhole = IN_WHOLE_GRID[builtin!];
      if (inWhole) values.push(`let ${name} = ${inWhole(`${name}_in_part`, threads)};`);
      if (!inWhole) kept.push(parameter);
      else if (builtin !== 'num_workgroups') kept.push(parameter.replace(/\w+(\s*:\s*\w+)$/, `${name}_in_part$1`));
    }
    return `fn main(${kept.join(', ')}) { ${values.join(' ')}`;
  });
}

const uniformSizes = (call: KernelCall): string[] => (call.constantSizes ? [] : Object.keys(call.shader.sizes));

export class Pipelines {
  readonly #device: GPUDevice;
  readonly #compiled = new Map<string, Promise<CompiledKernel>>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** The number of distinct pipelines compiled, or being compiled. */
  get count(): number {
    return this.#compiled.size;
  }

  /** Whether the pipeline of a key was compiled, or is being compiled. */
  has(key: string): boolean {
    return this.#compiled.has(key);
  }

  get(call: KernelCall): Promise<CompiledKernel> {
    const key = pipelineKey(call);
    let compiled = this.#compiled.get(key);
    if (!compiled) {
      compiled = this.#compile(call);
      this.#compiled.set(key, compiled);
      compiled.catch(() => this.#compiled.delete(key));
    }
    return compiled;
  }

  async #compile(call: KernelCall): Promise<CompiledKernel> {
    const { shader } = call;
    const names = uniformSizes(call);
    const layout = this.#layout(shader, names.length > 0);
    const constants: Record<string, number> = {};
    for (const [name, value] of Object.entries(call.switches)) constants[name] = Number(value);
    if (call.constantSizes) Object.assign(constants, call.sizes);
    const label = shader.name;
    const module = await this.#module(label, kernelSource(call));
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: 'main', constants },
      });
      return { pipeline, layout, uniformSizes: names, sizesBinding: shader.bindings.length };
    } catch (error) {
      const info = await module.getCompilationInfo();
      const messages = info.messages.map((m) => `line ${m.lineNum}: ${m.message}`).join('; ');
      const reason = messages || (error instanceof Error ? error.message : String(error));
      const where = shader.name.replace(/^\S+/, 'shaders/$&.wgsl');
      throw new DeviceError('validation', `${where} does not compile on this device: ${reason}`);
    }
  }

  /** The module of a text; of subgroup matrices, in whichever syntax the device knows. */
  async #module(label: string, code: string): Promise<GPUShaderModule> {
    const make = (text: string) => {
      // The scope keeps a broken shader out of the console: its messages are in the error that its pipeline throws.
      this.#device.pushErrorScope('validation');
      const module = this.#device.createShaderModule({ label, code: text });
      void this.#device.popErrorScope();
      return module;
    };
    const module = make(code);
    if (!usesSubgroupMatrix(code)) return module;
    const { messages } = await module.getCompilationInfo();
    return messages.some(({ type }) => type === 'error') ? make(olderSyntax(code)) : module;
  }

  #layout(shader: Shader, withSizes: boolean): GPUBindGroupLayout {
    const types = shader.bindings.map((b): GPUBufferBindingType => {
      return b.access === 'uniform' ? 'uniform' : b.access === 'read' ? 'read-only-storage' : 'storage';
    });
    if (withSizes) types.push('uniform');
    const key = types.join();
    let layout = this.#layouts.get(key);
    if (!layout) {
      layout = this.#device.createBindGroupLayout({
        entries: types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }
}

/** Where the sizes begin in their block: behind two vec3u. */
const FIRST_SIZE = 28;

/**
 * The sizes of a call as the bytes of its uniform block.
 *
 * @param first the first workgroup of the part that is dispatched
 */
export function sizesBlock(call: KernelCall, names: readonly string[], first: Grid = [0, 0, 0]): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((FIRST_SIZE + names.length * 4) / 16) * 16);
  const view = new DataView(bytes.buffer);
  for (const axis of [0, 1, 2] as const) {
    view.setUint32(4 * axis, first[axis], true);
    view.setUint32(16 + 4 * axis, call.grid[axis], true);
  }
  names.forEach((name, i) => {
    const at = FIRST_SIZE + i * 4;
    const type = call.shader.sizes[name];
    const value = call.sizes[name]!;
    if (type === 'f32') view.setFloat32(at, value, true);
    else if (type === 'i32') view.setInt32(at, value, true);
    else view.setUint32(at, value, true);
  });
  return bytes;
}

/** A call whose data already lie in buffers; `null` for a binding that its switches leave unused. */
export interface BoundCall {
  readonly call: KernelCall;
  readonly bindings: Readonly<Record<string, Binding | null>>;
}

export function bindGroup(
  runtime: Runtime,
  call: KernelCall,
  kernel: CompiledKernel,
  bindings: Readonly<Record<string, Binding | null>>,
  sizes: Binding | null,
): GPUBindGroup {
  const entries: GPUBindGroupEntry[] = call.shader.bindings.map(({ name, index, access }) => ({
    binding: index,
    resource: bindings[name] ?? runtime.placeholder(access, index),
  }));
  if (sizes) entries.push({ binding: kernel.sizesBinding, resource: sizes });
  return runtime.device.createBindGroup({ label: call.shader.name, layout: kernel.layout, entries });
}

/** A buffer of its own with the sizes of a call that is not in a plan; null if the kernel has none. */
export function sizesBuffer(runtime: Runtime, call: KernelCall, { uniformSizes }: CompiledKernel): Binding | null {
  if (uniformSizes.length === 0) return null;
  const bytes = sizesBlock(call, uniformSizes);
  const buffer = runtime.buffers.create('sizes', bytes.byteLength, GPUBufferUsage.UNIFORM, true);
  new Uint8Array(buffer.getMappedRange()).set(bytes);
  buffer.unmap();
  return { buffer, offset: 0, size: bytes.byteLength };
}

/** Runs calls once, in order, and waits for them: for work at load time. A plan is the way to run calls often. */
export async function runOnce(runtime: Runtime, calls: readonly BoundCall[]): Promise<void> {
  if (calls.length === 0) return;
  const { device, buffers } = runtime;
  const kernels = await Promise.all(calls.map(({ call }) => runtime.pipelines.get(call)));
  const temporary: GPUBuffer[] = [];
  await runtime.checked('packing weights', () => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    calls.forEach(({ call, bindings }, i) => {
      const kernel = kernels[i]!;
      const sizes = sizesBuffer(runtime, call, kernel);
      if (sizes) temporary.push(sizes.buffer);
      pass.setPipeline(kernel.pipeline);
      pass.setBindGroup(0, bindGroup(runtime, call, kernel, bindings, sizes));
      pass.dispatchWorkgroups(...call.grid);
    });
    pass.end();
    device.queue.submit([encoder.finish()]);
  });
  await device.queue.onSubmittedWorkDone();
  for (const buffer of temporary) buffers.destroy(buffer);
}
