/**
 * @file A plan: a schedule with buffers, pipelines and bind groups. After `Plan.create` nothing is allocated, compiled
 * or bound any more; a run writes the changed inputs, records the dispatches and submits.
 */
import type { Runtime } from './device.ts';
import { divide, type Part } from './divide.ts';
import { DeviceError } from './errors.ts';
import type { Graph } from './graph.ts';
import { fromNCHW, toNCHW } from './layout.ts';
import { type Binding, bindGroup, type CompiledKernel, pipelineKey, sizesBlock } from './pipelines.ts';
import type { Activation, PackedWeights, Resource, Table, Tensor, Uniform } from './resources.ts';
import { type Schedule, type ScheduleOptions, schedule, withChecks } from './schedule.ts';
import { SlicePlan } from './submit.ts';
import type { Weights } from './weights.ts';

export interface PlanOptions extends ScheduleOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called as pipelines become ready: how many of how many. */
  readonly onCompile?: ((done: number, total: number) => void) | undefined;
  /** After each dispatch, look at what it wrote for NaN and infinity: see `firstNonFinite`. Slow; for finding faults. */
  readonly checkFinite?: boolean | undefined;
  /** Buffers of another plan for tensors that both plans use. They stay the other plan's. */
  readonly shared?: ReadonlyMap<Tensor, GPUBuffer> | undefined;
}

/** What is recorded at once: a call, or a part of a large one. */
interface Step {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly part: Part;
}

/** Offsets of uniform bindings must be multiples of this (WebGPU's default limit). */
const UNIFORM_ALIGNMENT = 256;

export class Plan {
  readonly schedule: Schedule;
  readonly #runtime: Runtime;
  /** The steps of each call. */
  readonly #callSteps: readonly (readonly Step[])[];
  readonly #steps: readonly Step[];
  readonly #buffers: readonly GPUBuffer[];
  readonly #ownBuffer: ReadonlyMap<Tensor, GPUBuffer>;
  readonly #staging: ReadonlyMap<Tensor, GPUBuffer>;
  readonly #uniforms: UniformArena;
  readonly #slices: SlicePlan;
  readonly #reading = new Map<Tensor, Promise<unknown>>();
  #disposed = false;

  private constructor(
    runtime: Runtime,
    made: Schedule,
    callSteps: readonly (readonly Step[])[],
    buffers: readonly GPUBuffer[],
    ownBuffer: ReadonlyMap<Tensor, GPUBuffer>,
    staging: ReadonlyMap<Tensor, GPUBuffer>,
    uniforms: UniformArena,
  ) {
    this.schedule = made;
    this.#runtime = runtime;
    this.#callSteps = callSteps;
    this.#steps = callSteps.flat();
    this.#buffers = buffers;
    this.#ownBuffer = ownBuffer;
    this.#staging = staging;
    this.#uniforms = uniforms;
    this.#slices = new SlicePlan(this.#steps.map(({ part }) => part.cost));
  }

  /**
   * @param outputs tensors that `read` will be asked for
   * @throws DeviceError if a shader does not compile, a buffer is larger than the device allows, or memory runs out
   * @throws OptionError if no way was found to stay within `memoryBudget`
   */
  static async create(
    runtime: Runtime,
    graph: Graph,
    outputs: readonly Tensor[],
    options: PlanOptions = {},
  ): Promise<Plan> {
    await runtime.tuner?.tune(graph, options.signal);
    const plain = schedule(graph, outputs, options);
    const made = options.checkFinite ? withChecks(plain) : plain;
    checkLimits(made, runtime.limits);

    const kernels = await prepare(runtime, made, options);
    options.signal?.throwIfAborted();

    const { buffers } = runtime;
    const allocated: GPUBuffer[] = [];
    const allocate = (label: string, size: number, usage: GPUBufferUsageFlags): GPUBuffer => {
      const buffer = buffers.create(label, size, usage);
      allocated.push(buffer);
      return buffer;
    };
    try {
      const plan = await runtime.checked('building the plan', () => {
        const { STORAGE, COPY_DST, COPY_SRC, UNIFORM, MAP_READ } = GPUBufferUsage;
        const slots = made.slots.map((size, i) => allocate(`slot ${i}`, size, STORAGE));
        const ownBuffer = new Map<Tensor, GPUBuffer>();
        for (const t of made.own) {
          ownBuffer.set(t, options.shared?.get(t) ?? allocate(t.name, t.bytes, STORAGE | COPY_DST | COPY_SRC));
        }
        const staging = new Map<Tensor, GPUBuffer>();
        for (const t of new Set(made.flags ? [...outputs, made.flags] : outputs)) {
          staging.set(t, allocate(`${t.name} staging`, t.bytes, MAP_READ | COPY_DST));
        }
        const tables = new Map<string, GPUBuffer>();
        const tableBuffer = ({ name, data }: Table): GPUBuffer => {
          let buffer = tables.get(name);
          if (!buffer) {
            buffer = allocate(name, Math.max(16, data.byteLength), STORAGE | COPY_DST);
            runtime.device.queue.writeBuffer(buffer, 0, data);
            tables.set(name, buffer);
          }
          return buffer;
        };
        const uniforms = new UniformArena(graph.uniforms, (size) => allocate('uniforms', size, UNIFORM | COPY_DST));
        const sizes = new SizesArena();
        const parts = made.calls.map((call, i) =>
          divide(call, runtime.division).map((part) => ({
            part,
            place: sizes.place(sizesBlock(call, kernels[i]!.uniformSizes, part.first)),
          })),
        );
        const sizesBuffer = allocate('sizes', sizes.byteLength, UNIFORM | COPY_DST);
        runtime.device.queue.writeBuffer(sizesBuffer, 0, sizes.bytes());

        const bindingOf = (resource: Resource): Binding => {
          switch (resource.kind) {
            case 'tensor': {
              const own = ownBuffer.get(resource);
              if (own) return { buffer: own, offset: 0, size: resource.bytes };
              const { slot, offset } = made.placeOf.get(resource)!;
              return { buffer: slots[slot]!, offset, size: resource.bytes };
            }
            case 'uniform':
              return uniforms.binding(resource);
            case 'weights':
              return (resource.source as Weights).binding(resource);
            case 'table': {
              const buffer = tableBuffer(resource);
              return { buffer, offset: 0, size: buffer.size };
            }
          }
        };
        const steps = made.calls.map((call, i) => {
          const kernel = kernels[i]!;
          const bindings = Object.fromEntries(Object.entries(call.bind).map(([name, r]) => [name, bindingOf(r)]));
          return parts[i]!.map(({ part, place }): Step => {
            const block = kernel.uniformSizes.length > 0 ? { buffer: sizesBuffer, ...place } : null;
            return { pipeline: kernel.pipeline, group: bindGroup(runtime, call, kernel, bindings, block), part };
          });
        });
        return new Plan(runtime, made, steps, allocated, ownBuffer, staging, uniforms);
      });
      for (const [tensor, value] of graph.fills) {
        const { n, c, h, w } = tensor.shape;
        if (plan.has(tensor)) plan.write(tensor, new Float32Array(n * c * h * w).fill(value));
      }
      return plan;
    } catch (error) {
      for (const buffer of allocated) buffers.destroy(buffer);
      throw error;
    }
  }

  /** Dispatches a run makes: one for each of `schedule.calls`, more for those so large that they are divided. */
  get dispatches(): number {
    return this.#steps.length;
  }

  /** Milliseconds of GPU time a run took last, or null before the first. */
  get runMs(): number | null {
    return this.#slices.runMs;
  }

  /** Sets an input from values in NCHW order (activations) or as they are (arrays). */
  write(tensor: Tensor, data: Float32Array | Uint32Array | Int32Array): void {
    this.#assertUsable();
    const buffer = this.bufferOf(tensor);
    const values = tensor.shape ? fromNCHW(data as Float32Array, tensor.shape) : data;
    if (values.byteLength > tensor.bytes) {
      throw new RangeError(`${tensor.name} holds ${tensor.bytes / 4} words, found ${values.length}`);
    }
    this.#runtime.device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
  }

  /** Whether the plan has a buffer of its own for the tensor: not for an input that nothing reads. */
  has(tensor: Tensor): boolean {
    return this.#ownBuffer.has(tensor);
  }

  /** Whether `read` can be asked for the tensor. */
  isOutput(tensor: Tensor): boolean {
    return this.#staging.has(tensor);
  }

  /** The buffer of an input, a state or an output: for sharing with another plan, or with other work on the device. */
  bufferOf(tensor: Tensor): GPUBuffer {
    const buffer = this.#ownBuffer.get(tensor);
    if (!buffer) throw new Error(`${tensor.name} has no buffer of its own in this plan`);
    return buffer;
  }

  /** Whether the uniform belongs to this plan's graph. */
  hasUniform(uniform: Uniform): boolean {
    return this.#uniforms.has(uniform);
  }

  /** Sets fields of a uniform block; they hold for the runs after. */
  set(uniform: Uniform, values: Readonly<Record<string, number>>): void {
    this.#uniforms.set(uniform, values);
  }

  /**
   * The operation whose dispatch was the first to write NaN or infinity since the plan was made, or null. Needs a plan
   * made with `checkFinite`.
   */
  async firstNonFinite(): Promise<string | null> {
    const { flags, calls } = this.schedule;
    if (!flags) throw new Error('this plan was not made with checkFinite');
    const words = new Uint32Array(await this.#readBytes(flags));
    const first = words.indexOf(1);
    if (first < 0) return null;
    const { operation, layer } = calls[first]!;
    return layer === '' ? operation : `${operation} (${layer})`;
  }

  /** Records and submits every dispatch. Resolves when all slices are submitted, which may be before they are done. */
  async run(signal?: AbortSignal): Promise<void> {
    this.#assertUsable();
    this.#uniforms.flush(this.#runtime.device);
    await this.#runtime.pacer.run(this.#slices, (pass, from, to) => record(pass, this.#steps, from, to), signal);
  }

  /**
   * Records the calls of `schedule.calls` from `from` to before `to` into a pass of the caller's: to time some of them, or
   * to submit the plan together with other work. Uniforms are as of the last `run`.
   */
  encode(pass: GPUComputePassEncoder, from = 0, to = this.#callSteps.length): void {
    for (let i = from; i < to; i++) record(pass, this.#callSteps[i]!);
  }

  /**
   * Milliseconds of each call by itself, in the order of `schedule.calls`: each is repeated until a sample lasts at
   * least `sampleMs`, and the median of `samples` is taken. For measuring only: outputs are not meaningful afterwards.
   */
  async profile({ sampleMs = 20, samples = 3 } = {}): Promise<number[]> {
    this.#assertUsable();
    await this.#runtime.pacer.idle();
    const { queue } = this.#runtime.device;
    const times: number[] = [];
    for (const steps of this.#callSteps) {
      const time = async (repeats: number) => {
        const encoder = this.#runtime.device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        for (let i = 0; i < repeats; i++) record(pass, steps);
        pass.end();
        const started = performance.now();
        queue.submit([encoder.finish()]);
        await queue.onSubmittedWorkDone();
        return performance.now() - started;
      };
      await time(1); // what the driver compiles late is not measured
      let repeats = 1;
      for (let ms = await time(1); ms < sampleMs && repeats < 4096; ms = await time(repeats)) repeats *= 2;
      const taken: number[] = [];
      for (let i = 0; i < samples; i++) taken.push((await time(repeats)) / repeats);
      times.push(taken.sort((a, b) => a - b)[samples >> 1]!);
    }
    return times;
  }

  /** The current value of an output, in NCHW order. */
  async read(activation: Activation): Promise<Float32Array> {
    return toNCHW(new Float32Array(await this.#readBytes(activation)), activation.shape);
  }

  /** The words of an output in the layout the kernels use. */
  async readArray(tensor: Tensor): Promise<Float32Array> {
    return new Float32Array(await this.#readBytes(tensor));
  }

  #readBytes(tensor: Tensor): Promise<ArrayBuffer> {
    const staging = this.#staging.get(tensor);
    if (!staging) throw new Error(`${tensor.name} is not an output of this plan`);
    // A staging buffer serves one reader at a time.
    const read = (this.#reading.get(tensor) ?? Promise.resolve()).then(async () => {
      this.#assertUsable();
      const { device } = this.#runtime;
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(this.#ownBuffer.get(tensor)!, 0, staging, 0, tensor.bytes);
      device.queue.submit([encoder.finish()]);
      try {
        await staging.mapAsync(GPUMapMode.READ);
      } catch (error) {
        this.#assertUsable();
        throw error;
      }
      const bytes = staging.getMappedRange().slice(0);
      staging.unmap();
      return bytes;
    });
    this.#reading.set(
      tensor,
      read.catch(() => {}),
    );
    return read;
  }

  #assertUsable(): void {
    if (this.#disposed) throw new DeviceError('disposed', 'this plan has been disposed; make a new one');
    this.#runtime.assertAlive();
  }

  /** Frees the plan's buffers. Weights stay with their model. */
  dispose(): void {
    this.#disposed = true;
    for (const buffer of this.#buffers) this.#runtime.buffers.destroy(buffer);
  }
}

function record(pass: GPUComputePassEncoder, steps: readonly Step[], from = 0, to = steps.length): void {
  for (let i = from; i < to; i++) {
    const { pipeline, group, part } = steps[i]!;
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...part.count);
  }
}

function checkLimits(made: Schedule, limits: GPUSupportedLimits): void {
  const bound = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  for (const tensor of [...made.own, ...made.placeOf.keys()]) {
    if (tensor.bytes > bound) {
      throw new DeviceError(
        'limit',
        `${tensor.name} needs ${tensor.bytes} bytes; this device allows ${bound} in one buffer. Use a smaller batch or image`,
      );
    }
  }
  for (const { shader } of made.calls) {
    const storage = shader.bindings.filter((b) => b.access !== 'uniform').length;
    if (storage > limits.maxStorageBuffersPerShaderStage) {
      throw new DeviceError('limit', `${shader.name} needs ${storage} storage bindings, this device has fewer`);
    }
  }
}

/** Compiles the kernels and packs the parameters, both at the same time. */
async function prepare(runtime: Runtime, made: Schedule, options: PlanOptions): Promise<CompiledKernel[]> {
  const packing = packWeights(made);
  // Of parameters in memory all packing is asked for in this turn: its few small kernels compile first.
  const compiling = new Promise((resolve) => setTimeout(resolve)).then(() => compile(runtime, made, options));
  // Neither is left running behind an error of the other.
  const [compiled, packed] = await Promise.allSettled([compiling, packing]);
  if (compiled.status === 'rejected') throw compiled.reason;
  if (packed.status === 'rejected') throw packed.reason;
  return compiled.value;
}

/** All pipelines at once; each distinct one is counted as it becomes ready. */
async function compile(runtime: Runtime, made: Schedule, options: PlanOptions): Promise<CompiledKernel[]> {
  const distinct = new Map(made.calls.map((call) => [pipelineKey(call), call]));
  let done = 0;
  options.onCompile?.(0, distinct.size);
  const ready = new Map<string, CompiledKernel>();
  await Promise.all(
    [...distinct].map(async ([key, call]) => {
      ready.set(key, await runtime.pipelines.get(call));
      options.onCompile?.(++done, distinct.size);
    }),
  );
  runtime.assertAlive();
  return made.calls.map((call) => ready.get(pipelineKey(call))!);
}

async function packWeights(made: Schedule): Promise<void> {
  const wanted = new Map<Weights, PackedWeights[]>();
  for (const call of made.calls) {
    for (const resource of Object.values(call.bind)) {
      if (resource.kind !== 'weights') continue;
      const source = resource.source as Weights;
      if (typeof source.pack !== 'function')
        throw new Error('this graph was built from shapes alone; it has no weights');
      const list = wanted.get(source);
      if (list) list.push(resource);
      else wanted.set(source, [resource]);
    }
  }
  for (const [source, list] of wanted) await source.pack(list);
}

/** Values of uniform blocks, mirrored on the host and written in one go before a run. */
class UniformArena {
  readonly #offsets = new Map<Uniform, number>();
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  readonly #buffer: GPUBuffer;
  #dirty = true;

  constructor(uniforms: readonly Uniform[], allocate: (size: number) => GPUBuffer) {
    let size = 0;
    for (const uniform of uniforms) {
      this.#offsets.set(uniform, size);
      size += Math.ceil(uniform.block.size / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT;
    }
    this.#bytes = new Uint8Array(Math.max(UNIFORM_ALIGNMENT, size));
    this.#view = new DataView(this.#bytes.buffer);
    this.#buffer = allocate(this.#bytes.byteLength);
  }

  has(uniform: Uniform): boolean {
    return this.#offsets.has(uniform);
  }

  binding(uniform: Uniform): Binding {
    return { buffer: this.#buffer, offset: this.#offset(uniform), size: Math.ceil(uniform.block.size / 16) * 16 };
  }

  #offset(uniform: Uniform): number {
    const offset = this.#offsets.get(uniform);
    if (offset === undefined) throw new Error(`uniform ${uniform.name} belongs to another graph`);
    return offset;
  }

  set(uniform: Uniform, values: Readonly<Record<string, number>>): void {
    const base = this.#offset(uniform);
    for (const [name, value] of Object.entries(values)) {
      const field = uniform.block.fields[name];
      if (!field) throw new Error(`uniform ${uniform.name} has no field ${name}`);
      if (field.type === 'f32') this.#view.setFloat32(base + field.offset, value, true);
      else if (field.type === 'i32') this.#view.setInt32(base + field.offset, value, true);
      else this.#view.setUint32(base + field.offset, value, true);
    }
    this.#dirty = true;
  }

  flush(device: GPUDevice): void {
    if (!this.#dirty) return;
    device.queue.writeBuffer(this.#buffer, 0, this.#bytes);
    this.#dirty = false;
  }
}

/** The sizes of all calls in one buffer; equal blocks are stored once. */
class SizesArena {
  readonly #blocks: Uint8Array[] = [];
  readonly #places = new Map<string, { offset: number; size: number }>();
  byteLength = 0;

  place(block: Uint8Array): { offset: number; size: number } {
    const key = block.join();
    let place = this.#places.get(key);
    if (!place) {
      place = { offset: this.byteLength, size: block.byteLength };
      const padded = new Uint8Array(Math.ceil(block.byteLength / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT);
      padded.set(block);
      this.#blocks.push(padded);
      this.#places.set(key, place);
      this.byteLength += padded.byteLength;
    }
    return place;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.byteLength);
    let at = 0;
    for (const block of this.#blocks) {
      all.set(block, at);
      at += block.byteLength;
    }
    return all;
  }
}
