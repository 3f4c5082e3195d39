/**
 * @file The side of the measurement that runs next to the contestant, in a page or in a child process: one contestant, one
 * case.
 */
import { type Case, prepareValues } from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';
import { adapterName, between, type Counts, install, queuesDone, snapshot, takeErrors } from './counters.ts';

/** Shorter samples would show the clock's steps: browsers round it to 0.1 ms. */
const SAMPLE_MS = 20;
const MAX_RUNS = 1000;

export interface FirstCall {
  /** The contestant's own words: its version. */
  readonly version: string;
  readonly adapter: string;
  /** From the case to its first result on the device: building, compilation, one evaluation. */
  readonly firstMs: number;
  /** Little-endian float32 in base64. */
  readonly result: string;
  readonly counts: Counts;
}

export interface Round {
  /** Milliseconds a call, one each sample. */
  readonly samples: readonly number[];
  /** Of one call. */
  readonly counts: Counts;
}

export interface Missing {
  readonly missing: true;
}

let workload: Workload | null = null;
let runs = 1;

install();

export async function start(
  contestant: Contestant,
  c: Case,
  options: Readonly<Record<string, unknown>>,
): Promise<FirstCall | Missing> {
  const version = await contestant.init(options);
  const make = contestant[c.op] as ((c: Case) => Workload | Promise<Workload>) | undefined;
  if (!make) return { missing: true };
  prepareValues(c);
  const before = snapshot();
  const from = performance.now();
  workload = await make.call(contestant, c);
  await workload.run();
  await wait();
  const firstMs = performance.now() - from;
  const counts = between(before, snapshot());
  const result = await workload.read();
  const complaints = takeErrors();
  if (complaints.length > 0) throw new Error(complaints[0]);
  return { version, adapter: adapterName(), firstMs, result: encode(Float32Array.from(result)), counts };
}

/** Finds how many runs fill a sample. What is short is run once more before, until caches are warm. */
export async function warmUp(): Promise<void> {
  let once = await timed(1);
  if (once < 10 * SAMPLE_MS) once = await timed(1);
  runs = Math.min(MAX_RUNS, Math.max(1, Math.ceil(SAMPLE_MS / once)));
}

/** @param budgetMs no further sample is begun after it @param most samples */
export async function round(budgetMs: number, most: number): Promise<Round> {
  const samples: number[] = [];
  const from = performance.now();
  if (runs > 1) await timed(1); // fills the caches after somebody else's turn; nothing beside a long call
  let counts = snapshot();
  do {
    const before = snapshot();
    samples.push((await timed(runs)) / runs);
    counts = between(before, snapshot());
  } while (samples.length < most && performance.now() - from < budgetMs);
  const complaints = takeErrors();
  if (complaints.length > 0) throw new Error(complaints[0]);
  const perCall = { ...counts };
  for (const name of Object.keys(perCall) as (keyof Counts)[]) if (name !== 'heldBytes') perCall[name] /= runs;
  return { samples, counts: perCall };
}

/** Milliseconds until so many runs are done on the device. */
async function timed(count: number): Promise<number> {
  const from = performance.now();
  for (let i = 0; i < count; i++) await workload!.run();
  await wait();
  return performance.now() - from;
}

const wait = (): Promise<void> => workload!.wait?.() ?? queuesDone();

function encode(values: Float32Array): string {
  const bytes = new Uint8Array(values.buffer);
  let text = '';
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
