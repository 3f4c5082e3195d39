/**
 * @file What is known of the variants' times on an adapter: measured here, kept from an earlier visit, or shipped.
 *
 * Shapes that nobody measured take the times of the nearest one that somebody did, so that a table of some dozen shapes
 * serves models it has never seen. Which variants a graph takes by all this: selection.ts.
 */
import type { Choice, Kind } from './variants.ts';

/** Milliseconds by name of a variant. */
export type Times = Readonly<Record<string, number>>;

/** By `form`, then by sizes: `{ "3x3 stride 1": { "1 32 32 64 64": { "registers 16x2": 16.1 } } }`. */
export type TimesByShape = Readonly<Record<string, Readonly<Record<string, Times>>>>;

export interface TuningTable {
  readonly times: Readonly<Partial<Record<Kind, TimesByShape>>>;
  /** Milliseconds that pipelines took to compile, one at a time, by their keys. */
  readonly compilation: Times;
}

/** Results of another version mean nothing: to be raised when kernels or their tiles change. */
const TUNING_VERSION = 7;

/** Keeps measured tables between visits; a text an adapter. What it cannot keep is measured again. */
export interface TuningStore {
  read(adapter: string): Promise<string | null>;
  write(adapter: string, text: string): Promise<void>;
}

/** Steps that a visit is taken to run, unless somebody says otherwise: few, so that the first one is soon there. */
const VISIT_STEPS = 10;

/** Shapes whose sizes differ by more than this in all, in doublings, say nothing about each other. */
const FAR = 4;

/** A variant slower than this many times the fastest is never taken, so nothing is kept of it. */
export const HOPELESS = 1.5;

/** Of times by name, those that are worth keeping. Timestamps may run backwards: such times are none. */
function hopeful(times: Times): Times {
  const real = Object.entries(times).filter(([, ms]) => Number.isFinite(ms) && ms > 0);
  const limit = HOPELESS * Math.min(...real.map(([, ms]) => ms));
  return Object.fromEntries(real.filter(([, ms]) => ms <= limit));
}

interface Entry {
  readonly sizes: readonly number[];
  readonly times: Times;
}

type Shape = Pick<Choice, 'kind' | 'form' | 'sizes'>;

const distance = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, size, i) => sum + Math.abs(Math.log2(size / b[i]!)), 0);

const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);

export class Tuning {
  readonly #entries = new Map<string, Map<string, Entry>>();
  readonly #compilation = new Map<string, number>();
  /** Steps that a visit is taken to run, in which a faster variant must make up for its compilation. */
  readonly visitSteps: number;
  #revision = 0;
  /** What was measured on this adapter, and is worth keeping. */
  readonly #measured: {
    times: Partial<Record<Kind, Record<string, Record<string, Times>>>>;
    compilation: Record<string, number>;
  } = { times: {}, compilation: {} };

  /** @param shipped a table made beforehand, for adapters of the same kind */
  constructor(shipped: TuningTable = { times: {}, compilation: {} }, visitSteps = VISIT_STEPS) {
    this.visitSteps = visitSteps;
    each(shipped, (shape, times) => this.#enter(shape, times));
    for (const [key, ms] of Object.entries(shipped.compilation)) this.#compilation.set(key, ms);
  }

  /** Another number whenever more is known. */
  get revision(): number {
    return this.#revision;
  }

  #enter({ kind, form, sizes }: Shape, times: Times): void {
    this.#revision++;
    const key = `${kind} ${form}`;
    let entries = this.#entries.get(key);
    if (!entries) {
      entries = new Map();
      this.#entries.set(key, entries);
    }
    entries.set(sizes.join(' '), { sizes, times });
  }

  /**
   * Whether this very shape was measured.
   *
   * @param here whether on this adapter, where what a shipped table says does not count
   */
  has({ kind, form, sizes }: Shape, here = true): boolean {
    const of = sizes.join(' ');
    const entry = here ? this.#measured.times[kind]?.[form]?.[of] : this.#entries.get(`${kind} ${form}`)?.get(of);
    return entry !== undefined;
  }

  /** Takes in the measured times of a shape's variants. @returns those that are kept */
  learn(shape: Shape, times: Times): Times {
    const kept = hopeful(times);
    if (Object.keys(kept).length === 0) return kept;
    this.#enter(shape, kept);
    const { kind, form, sizes } = shape;
    const { times: measured } = this.#measured;
    measured[kind] ??= {};
    measured[kind][form] ??= {};
    measured[kind][form][sizes.join(' ')] = kept;
    return kept;
  }

  /** Takes in how long a pipeline took to compile. */
  learnCompilation(key: string, ms: number): void {
    this.#revision++;
    this.#compilation.set(key, ms);
    this.#measured.compilation[key] = ms;
  }

  /** Milliseconds that a pipeline takes to compile, if anybody measured it. */
  compilationMs(key: string): number | undefined {
    return this.#compilation.get(key);
  }

  /**
   * Times of those of `names` that were measured for this shape, or for the nearest one known, then in proportion to the
   * product of the sizes; undefined if none is near.
   */
  timesOf({ kind, form, sizes }: Shape, names: ReadonlySet<string>): ReadonlyMap<string, number> | undefined {
    let best: ReadonlyMap<string, number> | undefined;
    let least = FAR;
    for (const entry of this.#entries.get(`${kind} ${form}`)?.values() ?? []) {
      const away = distance(entry.sizes, sizes);
      if (!(away < least)) continue; // not a number if there are fewer sizes
      const scale = product(sizes) / product(entry.sizes);
      const times = Object.entries(entry.times).filter(([name]) => names.has(name));
      if (times.length === 0) continue;
      best = new Map(times.map(([name, ms]) => [name, ms * scale]));
      least = away;
    }
    return best;
  }

  /** What was measured on this adapter. */
  get measured(): TuningTable {
    return this.#measured;
  }

  /** Takes in what was measured on this adapter before. */
  takeMeasured(table: TuningTable): void {
    each(table, (shape, times) => this.learn(shape, times));
    for (const [key, ms] of Object.entries(table.compilation)) this.learnCompilation(key, ms);
  }

  /** What was measured, for a store. */
  text(): string {
    return JSON.stringify({ version: TUNING_VERSION, table: this.#measured });
  }

  /** Takes in what `text` gave on an earlier visit. What is of another version, or no such text, is left. */
  restore(text: string): void {
    let kept: unknown;
    try {
      kept = JSON.parse(text);
    } catch {
      return;
    }
    if (isRecord(kept) && kept['version'] === TUNING_VERSION && isTuningTable(kept['table'])) {
      this.takeMeasured(kept['table']);
    }
  }
}

function each(table: TuningTable, take: (shape: Shape, times: Times) => void): void {
  for (const [kind, forms] of Object.entries(table.times)) {
    for (const [form, shapes] of Object.entries(forms)) {
      for (const [sizes, times] of Object.entries(shapes)) {
        take({ kind: kind as Kind, form, sizes: sizes.split(' ').map(Number) }, times);
      }
    }
  }
}

/** Whether a value has the form of a table: names that mean nothing here do no harm. */
export const isTuningTable = (value: unknown): value is TuningTable =>
  isRecord(value) &&
  isTimes(value['compilation']) &&
  isRecordOf(value['times'], (forms) =>
    isRecordOf(forms, (shapes) =>
      isRecordOf(
        shapes,
        (times, sizes) => /^\d+( \d+)*$/.test(sizes) && isTimes(times) && Object.keys(times).length > 0,
      ),
    ),
  );

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isRecordOf = (value: unknown, holds: (value: unknown, key: string) => boolean): boolean =>
  isRecord(value) && Object.entries(value).every(([key, entry]) => holds(entry, key));

const isTimes = (value: unknown): value is Times =>
  isRecordOf(value, (ms) => typeof ms === 'number' && Number.isFinite(ms) && ms >= 0);
