/** @file What a benchmark finds, as it is kept in a file and shown in a table. Pure. */
import type { AdapterDescription } from '../src/runtime/device.ts';
import type { ClockKind, Timing } from '../src/runtime/measure.ts';
import type { Peak } from './peak.ts';

export type Direction = 'forward' | 'gradient';

/** One variant of one kernel in one direction. */
export interface Figure extends Timing {
  /** Relative L2 error against the reference; checked before anything is timed. */
  readonly error: number;
  /** Operations a second, the direct algorithm's counted. */
  readonly flops: number;
  /** Bytes of storage a second, the least the operation needs counted. */
  readonly bandwidth: number;
  /** Of the measured peak: multiply-adds, or copying where the kernel is bound by memory. */
  readonly share: number;
}

/** A variant that computes something else is not timed. */
export interface Wrong {
  readonly error: number;
  readonly wrong: string;
}

export interface Row {
  readonly family: string;
  readonly shape: string;
  /** Where the shape comes from: "Shipped models", "ADM-64", … */
  readonly models: string;
  /** Of the shape, in words: batch, operations, bytes. */
  readonly note: string;
  readonly memoryBound: boolean;
  readonly variant: string;
  /** The engine takes it on this adapter. */
  readonly chosen: boolean;
  /** Why it stays in the list. */
  readonly reason: string;
  /** FLOP a byte, by direction. */
  readonly intensity: Readonly<Record<Direction, number>>;
  readonly forward: Figure | Wrong;
  readonly gradient: Figure | Wrong;
}

export type LayerKind = 'conv' | 'norm' | 'attn' | 'lin' | 'other';

export interface LayerTime {
  readonly name: string;
  readonly kind: LayerKind;
  readonly ms: number;
  readonly dispatches: number;
  /** Where it was asked for: what is computed and how, in words, and the operations that this should take. */
  readonly work?: string;
  readonly flops?: number;
}

export interface ModelResult {
  readonly name: string;
  readonly note: string;
  readonly batch: number;
  /** Median of the whole, and its spread. */
  readonly ms: number;
  readonly spread: number;
  /** On a GPU: of one run in a row of them, by the host's clock. */
  readonly wallMs?: number;
  /** Relative L2 error, where it is known what the result should be. */
  readonly error?: number;
  readonly dispatches: number;
  /** Of a run, cut into slices where the adapter is slow. */
  readonly submits: number;
  /** Storage traffic by the cost model. */
  readonly bytes: number;
  readonly flops: number;
  /** Activations and weights. */
  readonly peakBytes: number;
  /** Share of the multiply-add peak. */
  readonly share: number;
  /** In order of execution; each was timed by itself. Empty if none was. */
  readonly layers: readonly LayerTime[];
}

/** A model that computes something else is not timed. */
export interface WrongModel extends Wrong, Pick<ModelResult, 'name' | 'note' | 'batch'> {}

/** Where a model's time goes, in milliseconds. */
export interface LayerTotals {
  readonly kinds: Readonly<Record<LayerKind, number>>;
  /** The works that take most, each over all layers that do it, with the name of the first of them. */
  readonly heaviest: readonly (LayerTime & { readonly layers: number })[];
}

/** @param most works that are listed */
export function layerTotals(layers: readonly LayerTime[], most = 20): LayerTotals {
  const kinds: Record<LayerKind, number> = { conv: 0, norm: 0, attn: 0, lin: 0, other: 0 };
  const works = new Map<string, LayerTime & { layers: number }>();
  for (const layer of layers) {
    kinds[layer.kind] += layer.ms;
    const key = layer.work ?? layer.name;
    const there = works.get(key);
    const both = (of: 'ms' | 'dispatches' | 'flops') => (there?.[of] ?? 0) + (layer[of] ?? 0);
    const flops = layer.flops === undefined ? {} : { flops: both('flops') };
    const sums = { ms: both('ms'), dispatches: both('dispatches'), ...flops, layers: (there?.layers ?? 0) + 1 };
    works.set(key, { ...(there ?? layer), ...sums });
  }
  return { kinds, heaviest: [...works.values()].sort((a, b) => b.ms - a.ms).slice(0, most) };
}

export interface BenchResult {
  readonly format: 'pilotwave-bench 1';
  readonly date: string;
  readonly adapter: AdapterDescription;
  /** Browser or Node, and system. */
  readonly host: string;
  readonly clock: ClockKind;
  readonly peak: Peak;
  readonly rows: readonly Row[];
  readonly models: readonly ModelResult[];
  /** Models with a wrong result, if there are any. */
  readonly wrong?: readonly WrongModel[];
}

export const isFigure = (value: Figure | Wrong): value is Figure => 'ms' in value;

export const rowKey = ({ family, shape, models, variant }: Row): string => [family, models, shape, variant].join(' | ');

/** @throws Error saying what a file should hold */
export function parseResult(text: string): BenchResult {
  let value: Partial<BenchResult>;
  try {
    value = JSON.parse(text) as Partial<BenchResult>;
  } catch {
    throw new Error('it is not JSON; expected a file saved by this page or by "npm run bench -- --json"');
  }
  if (value?.format !== 'pilotwave-bench 1' || !Array.isArray(value.rows) || !Array.isArray(value.models)) {
    throw new Error(
      `expected "format": "pilotwave-bench 1" with rows and models, found ${JSON.stringify(value?.format ?? null)}`,
    );
  }
  if (!value.peak || !value.adapter) throw new Error('the device’s peak or its adapter is missing');
  return value as BenchResult;
}
