/**
 * @file How anything is timed: warm-up, batches long enough for the clock, variants interleaved, order reversed on
 * alternate rounds, median and spread. Runs in a browser and in Node.
 */

/** Work that can be recorded into a pass any number of times. */
export interface Task {
  readonly name: string;
  encode(pass: GPUComputePassEncoder): void;
}

export interface Timing {
  /** The median of one repetition. */
  readonly ms: number;
  /** The least: what other work on the machine disturbs least. */
  readonly least: number;
  /** Half the distance between the quartiles, as a share of the median. */
  readonly spread: number;
  /** Repetitions in a batch, and batches. */
  readonly repeats: number;
  readonly rounds: number;
}

export type ClockKind = 'timestamp queries' | 'wall clock';

export interface MeasureOptions {
  /** A batch lasts at least this long. */
  readonly batchMs?: number;
  readonly rounds?: number;
  /** Work for so long comes first, so that a GPU at rest has raised its clock; none by default. */
  readonly wakeMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** An NVIDIA GPU at rest runs at a sixth of its clock, and takes some tenths of a second of work to raise it. */
export const GPU_WAKE_MS = 400;

export const BATCH_MS = 20;
export const ROUNDS = 5;

/** Repetitions are not raised above this: a driver that reports nothing sensible must not run for ever. */
const MOST_REPEATS = 1 << 14;

/** A batch is one submit, and a submit should stay far below any watchdog. */
const LONGEST_BATCH_MS = 400;

/**
 * Milliseconds that work takes on a device, by its own timestamps where it has them. Timestamps leave out the way to the
 * GPU and back; the wall clock does not, so batches are long against it.
 */
export class Clock {
  readonly kind: ClockKind;
  readonly device: GPUDevice;
  readonly #queries: { set: GPUQuerySet; resolved: GPUBuffer; staging: GPUBuffer } | null;

  constructor(device: GPUDevice) {
    this.device = device;
    const able = device.features.has('timestamp-query');
    this.kind = able ? 'timestamp queries' : 'wall clock';
    const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    this.#queries = able
      ? {
          set: device.createQuerySet({ type: 'timestamp', count: 2 }),
          resolved: device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC }),
          staging: device.createBuffer({ size: 16, usage: COPY_DST | MAP_READ }),
        }
      : null;
  }

  /** One submit with `repeats` repetitions of a task, timed as a whole. */
  async time({ encode }: Pick<Task, 'encode'>, repeats: number): Promise<number> {
    const { device } = this;
    const queries = this.#queries;
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass(
      queries
        ? { timestampWrites: { querySet: queries.set, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } }
        : {},
    );
    for (let i = 0; i < repeats; i++) encode(pass);
    pass.end();
    if (!queries) {
      const started = performance.now();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      return performance.now() - started;
    }
    encoder.resolveQuerySet(queries.set, 0, 2, queries.resolved, 0);
    encoder.copyBufferToBuffer(queries.resolved, 0, queries.staging, 0, 16);
    device.queue.submit([encoder.finish()]);
    await queries.staging.mapAsync(GPUMapMode.READ);
    const [begin, end] = new BigUint64Array(queries.staging.getMappedRange());
    const ms = Number(end! - begin!) / 1e6;
    queries.staging.unmap();
    return ms;
  }

  dispose(): void {
    this.#queries?.set.destroy();
    this.#queries?.resolved.destroy();
    this.#queries?.staging.destroy();
  }
}

/** The order of a round: forwards and backwards in turn, so that no variant always follows the same one. */
export const roundOrder = (tasks: number, round: number): number[] => {
  const order = Array.from({ length: tasks }, (_, i) => i);
  return round % 2 === 0 ? order : order.reverse();
};

/** Keeps a device busy with a task for so many milliseconds. */
async function wake(clock: Pick<Clock, 'time'>, task: Task, ms: number, signal?: AbortSignal): Promise<void> {
  const until = performance.now() + ms;
  for (let repeats = 1; performance.now() < until; ) {
    signal?.throwIfAborted();
    const taken = await clock.time(task, repeats);
    if (taken < BATCH_MS / 2 && repeats < MOST_REPEATS) repeats *= 2;
  }
}

/** Times tasks against each other. @throws the signal's reason if it is aborted */
export async function measure(
  clock: Pick<Clock, 'time'>,
  tasks: readonly Task[],
  { batchMs = BATCH_MS, rounds = ROUNDS, wakeMs = 0, signal }: MeasureOptions = {},
): Promise<Timing[]> {
  if (wakeMs > 0 && tasks[0]) await wake(clock, tasks[0], wakeMs, signal);
  const repeats: number[] = [];
  for (const task of tasks) {
    signal?.throwIfAborted();
    await clock.time(task, 1); // what a driver compiles or allocates late is not measured
    let count = 1;
    let ms = await clock.time(task, 1);
    while (ms < batchMs && count < MOST_REPEATS && 2 * ms < LONGEST_BATCH_MS) {
      signal?.throwIfAborted();
      // From a first guess upwards, never more than eightfold at once: short batches are mostly overhead.
      count *= Math.min(8, Math.max(2, Math.ceil((1.2 * batchMs) / Math.max(ms, batchMs / 8))));
      ms = await clock.time(task, count);
    }
    repeats.push(count);
  }
  const samples = tasks.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const i of roundOrder(tasks.length, round)) {
      signal?.throwIfAborted();
      samples[i]!.push((await clock.time(tasks[i]!, repeats[i]!)) / repeats[i]!);
    }
  }
  return samples.map((list, i) => ({ ...summary(list), repeats: repeats[i]!, rounds }));
}

/** Median, least, and half the distance between the quartiles. */
export function summary(samples: readonly number[]): Pick<Timing, 'ms' | 'least' | 'spread'> {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const low = sorted[Math.floor(place)]!;
    return low + (sorted[Math.ceil(place)]! - low) * (place % 1);
  };
  const ms = at(0.5);
  return { ms, least: sorted[0]!, spread: ms > 0 ? (at(0.75) - at(0.25)) / 2 / ms : 0 };
}
