import type { BenchResult, LayerTotals, ModelResult, WrongModel } from '../results.ts';

/** What guided_step.py measures of a part of a step. */
export interface TorchTiming {
  readonly ms: number;
  readonly least: number;
  readonly spread: number;
  readonly runs: number;
  readonly wall_ms: number;
}

/** The object that guided_step.py prints, as far as it is read. */
export interface TorchRun {
  readonly best: Readonly<
    Partial<Record<string, Partial<Record<'step' | 'unet' | 'classifier_gradient', TorchTiming>>>>
  >;
}

/** A result of `bench --json` for models of one's own. */
export interface OwnResult extends BenchResult {
  readonly device: unknown;
  readonly tuned: unknown;
  readonly models: readonly (ModelResult & LayerTotals)[];
}

export interface KeptResult {
  readonly models: readonly Omit<ModelResult & LayerTotals, 'layers'>[];
  readonly wrong: readonly WrongModel[];
}

export interface Compared {
  readonly pytorch: { readonly first: TorchRun; readonly again: TorchRun | null };
  readonly pilotwave: Readonly<Partial<Record<'float32' | 'reduced', KeptResult>>>;
}

export interface Ratio {
  readonly part: string;
  readonly accuracy: 'float32' | 'reduced';
  readonly precision: 'float32' | 'float16';
  readonly pilotwaveMs: number;
  readonly pytorchMs: number;
  readonly ratio: number;
  readonly error: number | null;
}

export const RIVALS: readonly Pick<Ratio, 'accuracy' | 'precision'>[];
export function kept(result: OwnResult): KeptResult;
export function ratios(result: Compared): Ratio[];
export function table(result: Compared): string[];
