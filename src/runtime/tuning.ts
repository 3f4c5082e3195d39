/**
 * @file What is known of the fastest variants on an adapter: measured here, kept from an earlier visit, or shipped.
 *
 * Shapes that nobody measured take the choice of the nearest one that somebody did, so that a table of some dozen shapes
 * serves models it has never seen.
 */
import type { CallShape, Candidate, Choice, Kind } from './variants.ts';

/** The fastest variant by `form`, then by sizes: `{ "3x3 stride 1 f32": { "1 32 32 64 64": "registers 16x2" } }`. */
export type Winners = Readonly<Record<string, Readonly<Record<string, string>>>>;
export type TuningTable = Readonly<Partial<Record<Kind, Winners>>>;

/** Results of another version mean nothing: to be raised when kernels or their tiles change. */
const TUNING_VERSION = 3;

/** Keeps measured tables between visits; a text an adapter. What it cannot keep is measured again. */
export interface TuningStore {
  read(adapter: string): Promise<string | null>;
  write(adapter: string, text: string): Promise<void>;
}

/** Shapes whose sizes differ by more than this in all, in doublings, say nothing about each other. */
const FAR = 4;

interface Entry {
  readonly sizes: readonly number[];
  readonly winner: string;
}

const distance = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, size, i) => sum + Math.abs(Math.log2(size / b[i]!)), 0);

export class Tuning {
  readonly #entries = new Map<string, Map<string, Entry>>();
  /** What was measured on this adapter, and is worth keeping. */
  readonly #measured: Partial<Record<Kind, Record<string, Record<string, string>>>> = {};

  /** @param shipped a table made beforehand, for adapters of the same kind */
  constructor(shipped: TuningTable = {}) {
    each(shipped, (kind, shape, winner) => this.#enter(kind, shape, winner));
  }

  #enter(kind: Kind, { form, sizes }: CallShape, winner: string): void {
    const key = `${kind} ${form}`;
    let entries = this.#entries.get(key);
    if (!entries) {
      entries = new Map();
      this.#entries.set(key, entries);
    }
    entries.set(sizes.join(' '), { sizes, winner });
  }

  /** Whether this very shape was measured on this adapter. */
  has({ kind, form, sizes }: Pick<Choice, 'kind' | 'form' | 'sizes'>): boolean {
    return this.#measured[kind]?.[form]?.[sizes.join(' ')] !== undefined;
  }

  learn({ kind, form, sizes }: Pick<Choice, 'kind' | 'form' | 'sizes'>, winner: string): void {
    this.#enter(kind, { form, sizes }, winner);
    this.#measured[kind] ??= {};
    this.#measured[kind][form] ??= {};
    this.#measured[kind][form][sizes.join(' ')] = winner;
  }

  /** The candidate that was fastest for this shape, or for the nearest one known; undefined if none is near. */
  choose(
    { kind, form, sizes }: Pick<Choice, 'kind' | 'form' | 'sizes'>,
    candidates: readonly Candidate[],
  ): Candidate | undefined {
    let best: Candidate | undefined;
    let least = FAR;
    for (const entry of this.#entries.get(`${kind} ${form}`)?.values() ?? []) {
      const away = distance(entry.sizes, sizes);
      if (away >= least) continue;
      const candidate = candidates.find(({ name }) => name === entry.winner);
      if (candidate) [best, least] = [candidate, away];
    }
    return best;
  }

  /** What was measured on this adapter. */
  get measured(): TuningTable {
    return this.#measured;
  }

  /** Takes in what was measured on this adapter before. */
  takeMeasured(table: TuningTable): void {
    each(table, (kind, shape, winner) => this.learn({ kind, ...shape }, winner));
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

function each(table: TuningTable, take: (kind: Kind, shape: CallShape, winner: string) => void): void {
  for (const [kind, forms] of Object.entries(table)) {
    for (const [form, winners] of Object.entries(forms)) {
      for (const [sizes, winner] of Object.entries(winners)) {
        take(kind as Kind, { form, sizes: sizes.split(' ').map(Number) }, winner);
      }
    }
  }
}

/** Whether a value has the form of a table: names that mean nothing here do no harm. */
export const isTuningTable = (value: unknown): value is TuningTable =>
  isRecord(value) &&
  Object.values(value).every(
    (forms) =>
      isRecord(forms) &&
      Object.values(forms).every(
        (winners) =>
          isRecord(winners) &&
          Object.entries(winners).every(([sizes, name]) => /^\d+( \d+)*$/.test(sizes) && typeof name === 'string'),
      ),
  );

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
