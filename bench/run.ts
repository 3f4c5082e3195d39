/**
 * @file A benchmark from beginning to end, as a stream of results: the page and the command line show them as they come.
 */
import type { Runtime } from '../src/runtime/device.ts';
import { Clock, GPU_WAKE_MS } from '../src/runtime/measure.ts';
import { benchCase, type KernelCase, kernelCases } from './kernels.ts';
import { benchModel, MODEL_CASES, type ModelPair } from './models.ts';
import { measurePeak, type Peak } from './peak.ts';
import type { BenchResult, ModelResult, Row, WrongModel } from './results.ts';
import type { ExpectedStep } from './step_inputs.ts';

/** What is run: all of it, or the parts of a name. */
export interface Selection {
  /** A family of kernels, or "Models"; null for all. */
  readonly family: string | null;
  /** Whose shapes: "Shipped models", "ADM-64", …; null for all. */
  readonly models: string | null;
}

export const MODELS_FAMILY = 'Models';

export type BenchEvent =
  | { readonly kind: 'peak'; readonly peak: Peak; readonly clock: Clock['kind'] }
  | { readonly kind: 'rows'; readonly rows: readonly Row[] }
  | { readonly kind: 'model'; readonly model: ModelResult }
  | { readonly kind: 'wrong'; readonly model: WrongModel }
  /** `part` of what is being done now, from 0 to 1. */
  | { readonly kind: 'progress'; readonly done: number; readonly total: number; readonly doing: string };

export interface BenchOptions {
  readonly selection?: Selection;
  readonly batch?: number;
  /** The models are somebody's own: the guided step alone is timed by layer, and layers say what they compute. */
  readonly own?: boolean;
  /** What the models should make of which inputs. */
  readonly expected?: ExpectedStep | null;
  readonly signal?: AbortSignal | undefined;
  readonly batchMs?: number;
  readonly rounds?: number;
  /** Called as the layers of a model are timed. */
  readonly onLayer?: ((done: number, total: number) => void) | undefined;
}

export const selectedCases = ({ family, models }: Selection): KernelCase[] =>
  kernelCases().filter((k) => (family === null || k.family === family) && (models === null || k.models === models));

export const wantsModels = ({ family, models }: Selection): boolean =>
  (family === null || family === MODELS_FAMILY) && (models === null || models === 'Shipped models');

/**
 * @param pair the models to time as wholes
 * @throws the signal's reason if it is aborted; what came before stays valid
 */
export async function* runBench(
  runtime: Runtime,
  pair: ModelPair | null,
  {
    selection = { family: null, models: null },
    batch = 10,
    own = false,
    expected = null,
    signal,
    onLayer,
    ...measuring
  }: BenchOptions = {},
): AsyncGenerator<BenchEvent, void, undefined> {
  const options = { wakeMs: runtime.target.adapter === 'gpu' ? GPU_WAKE_MS : 0, ...measuring, signal };
  const cases = selectedCases(selection);
  const models = pair && wantsModels(selection) ? MODEL_CASES : [];
  const total = 1 + cases.length + models.length;
  let done = 0;
  const clock = new Clock(runtime.device);
  try {
    yield { kind: 'progress', done, total, doing: 'the device’s peak' };
    const peak = await measurePeak(runtime, clock, options);
    yield { kind: 'peak', peak, clock: clock.kind };
    done++;
    for (const kernel of cases) {
      yield { kind: 'progress', done, total, doing: `${kernel.family}, ${kernel.shape}` };
      yield { kind: 'rows', rows: await benchCase(runtime, clock, peak, kernel, options) };
      done++;
    }
    for (const model of models) {
      yield { kind: 'progress', done, total, doing: `${model.name}, ${model.note}` };
      const layers = own ? (model.makes === 'sample' ? 'described' : 'none') : 'timed';
      const result = await benchModel(runtime, clock, peak, model, pair!, batch, {
        ...options,
        expected,
        layers,
        onLayer,
      });
      yield 'wrong' in result ? { kind: 'wrong', model: result } : { kind: 'model', model: result };
      done++;
    }
    yield { kind: 'progress', done, total, doing: '' };
  } finally {
    clock.dispose();
  }
}

/** Results so far as they are kept; null before the peak is known. */
export class Collected {
  peak: Peak | null = null;
  clock: Clock['kind'] = 'wall clock';
  readonly rows: Row[] = [];
  readonly models: ModelResult[] = [];
  readonly wrong: WrongModel[] = [];

  take(event: BenchEvent): void {
    if (event.kind === 'peak') {
      this.peak = event.peak;
      this.clock = event.clock;
    } else if (event.kind === 'rows') this.rows.push(...event.rows);
    else if (event.kind === 'model') this.models.push(event.model);
    else if (event.kind === 'wrong') this.wrong.push(event.model);
  }

  result(runtime: Runtime, host: string, date = new Date()): BenchResult | null {
    if (!this.peak) return null;
    return {
      format: 'pilotwave-bench 1',
      date: date.toISOString().slice(0, 10),
      adapter: runtime.adapter,
      host,
      clock: this.clock,
      peak: this.peak,
      rows: this.rows,
      models: this.models,
      ...(this.wrong.length > 0 ? { wrong: this.wrong } : {}),
    };
  }
}
