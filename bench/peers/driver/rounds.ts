/**
 * @file One case for all contestants: first calls, results checked, then rounds in turns, every other one backwards, so
 * that drift and other load fall on all alike.
 */
import { loadavg } from 'node:os';
import { type Case, multiplyAdds, nameOf } from '../cases.ts';
import type { Counts } from '../measure/counters.ts';
import { expectedResult, relativeError } from '../reference/expected.ts';
import type { Host, Seat } from './host.ts';

/** Relative L2 error above which a result is wrong and is not timed: float32 in any order stays a hundred times below. */
const TOLERANCE = 1e-3;

/** The problem of a contestant that does not have an operator. */
export const MISSING = 'not provided';

export interface Entrant {
  readonly name: string;
  readonly bundle: string;
  readonly options: Readonly<Record<string, unknown>>;
}

export interface Measurement {
  readonly contestant: string;
  readonly version?: string;
  readonly adapter?: string;
  /** Why there are no times. */
  readonly problem?: string;
  /** Of the result, against the float64 reference. */
  readonly error?: number;
  readonly firstMs?: number;
  readonly firstCounts?: Counts;
  /** Milliseconds a call. */
  readonly rounds?: readonly (readonly number[])[];
  readonly median?: number;
  readonly least?: number;
  readonly most?: number;
  /** Of a call after the first. */
  readonly counts?: Counts;
  /** This contestant's time over the first one's: median over rounds of the ratio within a round. */
  readonly ratio?: number;
}

export interface CaseReport {
  readonly name: string;
  readonly sizes: Case;
  readonly multiplyAdds: number;
  /** Load average of the machine (1 minute) before and after. Contestants themselves make load. */
  readonly load: readonly [number, number];
  readonly measurements: readonly Measurement[];
}

export interface RoundOptions {
  readonly rounds: number;
  readonly budgetMs: number;
  readonly samples: number;
}

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

const load = (): number => Number(loadavg()[0]!.toFixed(1));

export async function measureCase(
  host: Host,
  c: Case,
  entrants: readonly Entrant[],
  { rounds, budgetMs, samples }: RoundOptions,
  log: (line: string) => void,
): Promise<CaseReport> {
  const name = nameOf(c);
  const expected = expectedResult(c);
  const before = load();
  const found = new Map<string, Measurement>();
  const ready: { entrant: Entrant; seat: Seat; times: number[][] }[] = [];
  await host.beginCase();
  try {
    for (const entrant of entrants) {
      const seat = await tried(() => host.seat(entrant.bundle));
      const measured = seat instanceof Error ? { problem: seat.message } : await begin(seat, c, entrant, expected);
      found.set(entrant.name, { contestant: entrant.name, ...measured });
      const { problem, firstMs, error } = found.get(entrant.name)!;
      log(
        `${name} | ${entrant.name} | ${problem ?? `first ${firstMs!.toFixed(0)} ms, error ${error!.toExponential(1)}`}`,
      );
      if (!(seat instanceof Error) && problem === undefined) ready.push({ entrant, seat, times: [] });
    }
    for (let round = 0; round < rounds; round++) {
      const order = round % 2 === 0 ? ready : [...ready].reverse();
      for (const { entrant, seat, times } of order) {
        const result = await tried(() => seat.round(budgetMs, samples));
        const sofar = found.get(entrant.name)!;
        if (result instanceof Error) {
          found.set(entrant.name, { ...sofar, problem: result.message });
          ready.splice(
            ready.findIndex((r) => r.entrant === entrant),
            1,
          );
          continue;
        }
        times.push([...result.samples]);
        found.set(entrant.name, { ...sofar, counts: result.counts });
        log(`${name} | ${entrant.name} | round ${round + 1}: ${median(result.samples).toFixed(2)} ms`);
      }
    }
  } finally {
    await host.endCase();
  }
  const yardstick = ready.find(({ entrant }) => entrant === entrants[0]);
  for (const { entrant, times } of ready) {
    const all = times.flat();
    const ratios = times.map((own, i) => median(own) / median(yardstick?.times[i] ?? [Number.NaN]));
    found.set(entrant.name, {
      ...found.get(entrant.name)!,
      rounds: times,
      median: median(all),
      least: Math.min(...all),
      most: Math.max(...all),
      ...(yardstick && { ratio: median(ratios) }),
    });
  }
  return { name, sizes: c, multiplyAdds: multiplyAdds(c), load: [before, load()], measurements: [...found.values()] };
}

async function begin(seat: Seat, c: Case, { options }: Entrant, expected: Float64Array) {
  const started = await tried(() => seat.start(c, options));
  if (started instanceof Error) return { problem: started.message };
  if ('missing' in started) return { problem: MISSING };
  const { version, adapter, firstMs, counts, result } = started;
  const bytes = Uint8Array.from(Buffer.from(result, 'base64'));
  const error = relativeError(new Float32Array(bytes.buffer), expected);
  const measured = { version, adapter, error, firstMs, firstCounts: counts };
  if (!(error <= TOLERANCE)) return { ...measured, problem: `wrong result, relative error ${error.toExponential(1)}` };
  const warm = await tried(() => seat.warmUp());
  return warm instanceof Error ? { ...measured, problem: warm.message } : measured;
}

async function tried<T>(work: () => Promise<T>): Promise<T | Error> {
  try {
    return await work();
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}
