/**
 * @file Measures how long variants take on this adapter, and their pipelines to compile, for the shapes of a graph that nobody
 * measured yet. What is taken by that is settled in selection.ts.
 *
 * The heaviest shapes come first, and all of it ends with a budget of time: what was not reached takes the times of the
 * nearest shape. On a GPU the tile of each way that should be fastest is timed first, then others of the ways that are not far
 * behind. Variants of a shape are timed in turns; one that does not compile, or loses clearly, is left out.
 */
import type { Runtime } from './device.ts';
import type { Graph } from './graph.ts';
import { Clock, GPU_WAKE_MS, measure, type Task } from './measure.ts';
import { type Binding, bindGroup, type CompiledKernel, pipelineKey, sizesBuffer } from './pipelines.ts';
import type { Resource } from './resources.ts';
import type { Grid, KernelCall } from './shader.ts';
import { HOPELESS, type Tuning, type TuningStore } from './tuning.ts';
import { type Candidate, type Choice, wayOf } from './variants.ts';

export interface TunerOptions {
  /** Milliseconds that measuring may take for a plan; by default 2000. 0 measures nothing. */
  readonly budgetMs?: number;
  /** Whether shapes are measured that a shipped table knows: for making such a table. */
  readonly anew?: boolean;
  /** Where results are kept between visits; by default nowhere. */
  readonly store?: TuningStore | undefined;
  /** Called after each shape, with how many of the plan's are left. */
  readonly onShape?: ((result: TunedShape, left: number) => void) | undefined;
  /** Steps that a run will have, by default few: the more, the less it counts how long a faster variant takes to compile. */
  readonly visitSteps?: number | undefined;
}

/** What was measured for a shape: milliseconds of each variant, the fastest first. */
export interface TunedShape {
  readonly choice: Pick<Choice, 'kind' | 'form' | 'sizes'>;
  readonly times: readonly { readonly name: string; readonly ms: number }[];
}

const TUNING_BUDGET_MS = 2000;

/** Timestamps may be quantised to 0.1 ms, and the wall clock counts the way to the GPU and back. */
const BATCH_MS = { 'timestamp queries': 4, 'wall clock': 20 } as const;

/** Rounds that decide, after a first one that throws out what is hopeless. */
const ROUNDS = 5;

/** Buffers for the measured calls may take this much. */
const MAX_BYTES = 1 << 30;

/** Of the ways that are not far behind, so many further tiles each are measured. */
const MORE_TILES = 3;

/** A GPU that had no work for so long lowers its clock. */
const REST_MS = 300;

export class Tuner {
  readonly tuning: Tuning;
  readonly #runtime: Runtime;
  readonly #options: TunerOptions;
  /** Milliseconds that pipelines took to compile here, by their keys. */
  readonly #compiled = new Map<string, number>();
  #restored: Promise<void> | null = null;
  /** When something was measured last. */
  #worked = Number.NEGATIVE_INFINITY;
  #running: Promise<void> = Promise.resolve();

  constructor(runtime: Runtime, tuning: Tuning, options: TunerOptions = {}) {
    this.#runtime = runtime;
    this.tuning = tuning;
    this.#options = options;
  }

  /** What tells adapters apart in a store. */
  get adapterKey(): string {
    const { vendor, architecture, device, description } = this.#runtime.device.adapterInfo;
    return [vendor, architecture, device, description].join('/');
  }

  /** Measures what `graph` holds and the table does not. @throws the signal's reason if it is aborted */
  tune(graph: Graph, signal?: AbortSignal): Promise<void> {
    // One after another: two at once would disturb each other's times, and measure the same shapes.
    const done = this.#running.then(() => this.#tune(graph, signal));
    this.#running = done.catch(() => {});
    return done;
  }

  async #tune(graph: Graph, signal: AbortSignal | undefined): Promise<void> {
    this.#restored ??= this.#restore();
    await this.#restored;
    const { budgetMs = TUNING_BUDGET_MS, anew = false, store } = this.#options;
    const open = unknown(graph, this.tuning, anew);
    if (open.length === 0 || budgetMs <= 0) return;
    const until = performance.now() + budgetMs;
    const clock = new Clock(this.#runtime.device);
    let learned = false;
    try {
      for (const [i, { choice, candidates }] of open.entries()) {
        signal?.throwIfAborted();
        const times = await this.#race(clock, candidates, until, signal);
        if (times.length === 0) continue;
        const kept = this.tuning.learn(choice, Object.fromEntries(times.map(({ name, ms }) => [name, ms])));
        for (const { name, lower } of candidates) if (name in kept) this.#learnCompilation(lower());
        learned = true;
        this.#options.onShape?.({ choice, times }, open.length - 1 - i);
        if (performance.now() >= until) break;
      }
    } finally {
      clock.dispose();
    }
    if (learned) await store?.write(this.adapterKey, this.tuning.text());
  }

  #learnCompilation(calls: readonly KernelCall[]): void {
    for (const key of calls.map(pipelineKey)) {
      const ms = this.#compiled.get(key);
      if (ms !== undefined) this.tuning.learnCompilation(key, ms);
    }
  }

  async #restore(): Promise<void> {
    const text = await this.#options.store?.read(this.adapterKey);
    if (text) this.tuning.restore(text);
  }

  /** Milliseconds of each variant that works, the fastest first. No more are tried after `until`. */
  async #race(
    clock: Clock,
    candidates: readonly Candidate[],
    until: number,
    signal: AbortSignal | undefined,
  ): Promise<TunedShape['times']> {
    const stage = new Stage(this.#runtime, this.#compiled);
    try {
      const batchMs = BATCH_MS[clock.kind];
      const timed = async (list: readonly Task[], rounds: number) => {
        const wakeMs = this.#runtime.adapter.software || performance.now() - this.#worked < REST_MS ? 0 : GPU_WAKE_MS;
        const timings = await measure(clock, list, { batchMs, rounds, wakeMs, signal });
        this.#worked = performance.now();
        return timings.map(({ least }, i) => ({ task: list[i]!, ms: least })).sort((a, b) => a.ms - b.ms);
      };
      const near = (list: Awaited<ReturnType<typeof timed>>) => list.filter(({ ms }) => ms <= HOPELESS * list[0]!.ms);

      const heads = this.#runtime.adapter.software ? candidates : headsOfWays(candidates);
      let first = await timed(await stage.tasks(heads, signal), 1);
      if (heads.length < candidates.length && first.length > 0 && performance.now() < until) {
        const ways = new Set(near(first).map(({ task }) => wayOf(task.name)));
        const others = candidates.filter((candidate) => !heads.includes(candidate));
        const more = [...ways].flatMap((way) => others.filter(({ name }) => wayOf(name) === way).slice(0, MORE_TILES));
        first = [...first, ...(await timed(await stage.tasks(more, signal), 1))].sort((a, b) => a.ms - b.ms);
      }
      const remaining = near(first).map(({ task }) => task);
      const last = remaining.length > 1 ? await timed(remaining, ROUNDS) : first.slice(0, 1);
      const rest = first.filter(({ task }) => !last.some((entry) => entry.task === task));
      return [...last, ...rest].map(({ task: { name }, ms }) => ({ name, ms })).sort((a, b) => a.ms - b.ms);
    } finally {
      stage.dispose();
    }
  }
}

/**
 * The candidate of each way that should cost least. Costs order the tiles of a way well, and ways among each other badly; and
 * on a GPU somebody waits for all that are compiled. A software adapter's table is made once, of all.
 */
const headsOfWays = (candidates: readonly Candidate[]): Candidate[] =>
  candidates.filter(({ name }, i) => candidates.findIndex((other) => wayOf(other.name) === wayOf(name)) === i);

/** Shapes with more than one candidate that were not measured, those with most work in the graph first. */
function unknown(graph: Graph, tuning: Tuning, anew: boolean) {
  const found = new Map<string, { choice: Choice; candidates: readonly Candidate[]; count: number }>();
  for (const { choice } of graph.operations) {
    if (!choice || graph.target.variants?.[choice.kind] !== undefined || tuning.has(choice, anew)) continue;
    const key = `${choice.kind} ${choice.form} ${choice.sizes.join(' ')}`;
    const there = found.get(key);
    if (there) there.count++;
    else found.set(key, { choice, candidates: choice.candidates(), count: 1 });
  }
  return [...found.values()]
    .filter(({ candidates }) => candidates.length > 1)
    .map((entry) => ({ ...entry, work: entry.count * Math.min(...entry.candidates.map(({ cost }) => cost)) }))
    .sort((a, b) => b.work - a.work);
}

interface Step {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly grid: Grid;
}

const encoderOf = (steps: readonly Step[]) => (pass: GPUComputePassEncoder) => {
  for (const { pipeline, group, grid } of steps) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...grid);
  }
};

/**
 * Buffers of zeros in the place of tensors and weights: how long a kernel takes does not depend on values. One candidate's serve
 * the next one too.
 */
class Stage {
  readonly #runtime: Runtime;
  readonly #compiled: Map<string, number>;
  /** Milliseconds to create pipelines, by their keys. */
  readonly #created = new Map<string, number>();
  readonly #pool: GPUBuffer[] = [];
  readonly #sizes: GPUBuffer[] = [];
  #bytes = 0;

  /** @param compiled gets the time that each pipeline takes to compile */
  constructor(runtime: Runtime, compiled: Map<string, number>) {
    this.#runtime = runtime;
    this.#compiled = compiled;
  }

  /**
   * Those of the candidates that work on this device, ready to be recorded. A software adapter's pipelines are made one after
   * another, so that each is timed by itself; a GPU's at the same time, since somebody waits.
   */
  async tasks(candidates: readonly Candidate[], signal: AbortSignal | undefined): Promise<Task[]> {
    const prepared = candidates.map((candidate) => ({ candidate, calls: candidate.lower() }));
    if (!this.#runtime.adapter.software) await this.#compileTogether(prepared.flatMap(({ calls }) => calls));
    const tasks: Task[] = [];
    for (const { candidate, calls } of prepared) {
      signal?.throwIfAborted();
      const task = await this.#task(candidate, calls);
      if (task) tasks.push(task);
    }
    return tasks;
  }

  /** The candidate's dispatches; null if it does not work on this device. */
  async #task({ name }: Candidate, calls: readonly KernelCall[]): Promise<Task | null> {
    const { limits } = this.#runtime;
    const largest = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
    const resources = [...new Set(calls.flatMap(({ bind }) => Object.values(bind)))];
    if (resources.some((r) => bytesOf(r) > largest)) return null;
    const buffers = this.#buffersFor(resources);
    if (!buffers) return null;
    try {
      const kernels: CompiledKernel[] = [];
      for (const call of calls) kernels.push(await this.#compile(call));
      const steps = await this.#runtime.checked(`measuring ${name}`, () =>
        calls.map((call, i) => ({
          pipeline: kernels[i]!.pipeline,
          group: this.#group(call, kernels[i]!, buffers),
          grid: call.grid,
        })),
      );
      for (const [i, call] of calls.entries()) await this.#timeCompilation(pipelineKey(call), encoderOf([steps[i]!]));
      return { name, encode: encoderOf(steps) };
    } catch (error) {
      this.#runtime.assertAlive();
      console.warn(`${name} is left out: ${error instanceof Error ? error.message : error}`);
      return null;
    }
  }

  /** Each is taken to have compiled for its share of the time. What fails here fails again where it is asked for. */
  async #compileTogether(calls: readonly KernelCall[]): Promise<void> {
    const { pipelines } = this.#runtime;
    const missing = new Map(calls.map((call) => [pipelineKey(call), call]));
    for (const key of missing.keys()) if (pipelines.has(key)) missing.delete(key);
    const before = performance.now();
    await Promise.allSettled([...missing.values()].map((call) => pipelines.get(call)));
    const each = (performance.now() - before) / missing.size;
    for (const key of missing.keys()) this.#created.set(key, each);
  }

  async #compile(call: KernelCall): Promise<CompiledKernel> {
    const { pipelines } = this.#runtime;
    const key = pipelineKey(call);
    if (pipelines.has(key)) return pipelines.get(call);
    const before = performance.now();
    const kernel = await pipelines.get(call);
    this.#created.set(key, performance.now() - before);
    return kernel;
  }

  /** Some drivers leave the better part of compilation to the first dispatch: what that takes more than the second. */
  async #timeCompilation(key: string, encode: Task['encode']): Promise<void> {
    const created = this.#created.get(key);
    if (created === undefined || this.#compiled.has(key)) return;
    const first = await this.#run(encode);
    const second = await this.#run(encode);
    this.#compiled.set(key, created + Math.max(0, first - second));
  }

  /** @returns milliseconds */
  async #run(encode: Task['encode']): Promise<number> {
    const { device } = this.#runtime;
    const before = performance.now();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - before;
  }

  #group(call: KernelCall, kernel: CompiledKernel, buffers: ReadonlyMap<Resource, GPUBuffer>): GPUBindGroup {
    const bindings: Record<string, Binding> = {};
    for (const [name, resource] of Object.entries(call.bind)) {
      bindings[name] = { buffer: buffers.get(resource)!, offset: 0, size: bytesOf(resource) };
    }
    const sizes = sizesBuffer(this.#runtime, call, kernel);
    if (sizes) this.#sizes.push(sizes.buffer);
    return bindGroup(this.#runtime, call, kernel, bindings, sizes);
  }

  /** A buffer of the pool for each resource; null if they would take too much memory. */
  #buffersFor(resources: readonly Resource[]): Map<Resource, GPUBuffer> | null {
    const taken = new Map<Resource, GPUBuffer>();
    const free = new Set(this.#pool);
    for (const resource of [...resources].sort((a, b) => bytesOf(b) - bytesOf(a))) {
      const bytes = bytesOf(resource);
      const fitting = [...free].filter(({ size }) => size >= bytes).sort((a, b) => a.size - b.size)[0];
      if (!fitting && this.#bytes + bytes > MAX_BYTES) return null;
      const buffer = fitting ?? this.#create(bytes);
      free.delete(buffer);
      taken.set(resource, buffer);
    }
    return taken;
  }

  #create(bytes: number): GPUBuffer {
    const buffer = this.#runtime.buffers.create('tuning', bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM);
    this.#pool.push(buffer);
    this.#bytes += bytes;
    return buffer;
  }

  dispose(): void {
    for (const buffer of [...this.#pool, ...this.#sizes]) this.#runtime.buffers.destroy(buffer);
  }
}

function bytesOf(resource: Resource): number {
  const bytes =
    resource.kind === 'uniform'
      ? resource.block.size
      : resource.kind === 'table'
        ? resource.data.byteLength
        : resource.bytes;
  return Math.max(16, Math.ceil(bytes / 16) * 16);
}
