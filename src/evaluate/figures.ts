/**
 * @file From a record to figures: one row for each setting, against real pictures.
 */
import {
  agreement,
  type ClassPairs,
  classVariety,
  coverage,
  type Estimate,
  frechetDistance,
  inceptionScore,
  jackknife,
  kernelDistances,
  kernelWithin,
  type Labelled,
  type Moments,
  moments,
  neighbourRadii,
} from './distances.ts';
import { logSoftmax } from './features.ts';
import type { Chunk, EvaluationRecord } from './record.ts';
import { FORMS, readSettingKey, type Setting } from './settings.ts';
import { squareRoot } from './symmetric.ts';
import { rows, stack, type Vectors, vectors } from './vectors.ts';

/** Neighbours that make a picture's ball, as in Kynkäänniemi et al. 2019. */
const NEIGHBOURS = 3;

/** Real pictures, with what only depends on them. */
export interface Reference extends Labelled {
  readonly moments: Moments;
  readonly root: Float64Array;
  readonly kernel: ClassPairs;
  readonly variety: number;
  readonly radii: Float64Array;
}

export function reference(real: Labelled): Reference {
  const made = moments(real.features);
  return {
    ...real,
    moments: made,
    root: squareRoot(made.covariance, made.width),
    kernel: kernelWithin(real),
    variety: classVariety(real),
    radii: neighbourRadii(real.features, NEIGHBOURS),
  };
}

/** Pictures as the judge sees them, with the class each was asked to be. */
export interface Judged extends Labelled {
  readonly logProbs: Vectors;
}

/** One number each of what is measured. */
const MEASURES = {
  /** Kernel distance to the real pictures. */
  kernel: (set: Judged, real: Reference) => kernelDistances(real, set, real.kernel).all,
  /** The same, each class by itself. */
  classKernel: (set: Judged, real: Reference) => kernelDistances(real, set, real.kernel).byClass,
  frechet: (set: Judged, real: Reference) => frechetDistance(real.moments, moments(set.features), real.root),
  precision: (set: Judged, real: Reference) => coverage(set.features, real.features, real.radii),
  recall: ({ features }: Judged, real: Reference) =>
    coverage(real.features, features, neighbourRadii(features, NEIGHBOURS)),
  /** How varied the pictures of a class are; 1 is as varied as real ones. */
  variety: (set: Judged, real: Reference) => classVariety(set) / real.variety,
  inception: ({ logProbs }: Judged) => inceptionScore(logProbs),
  agreement: ({ logProbs, labels }: Judged) => agreement(logProbs, labels),
} as const;

export type Measure = keyof typeof MEASURES;

export type Figures = Readonly<Record<Measure, Estimate>>;

const NAMES = Object.keys(MEASURES) as Measure[];

const figuresFrom = (estimate: (name: Measure) => Estimate): Figures =>
  Object.fromEntries(NAMES.map((name) => [name, estimate(name)])) as Record<Measure, Estimate>;

export interface Row {
  readonly setting: Setting;
  readonly pictures: number;
  readonly seeds: number;
  readonly figures: Figures;
  /** The mean share of values that had to be clamped. */
  readonly outside: number;
}

const pooled = (parts: readonly Judged[]): Judged => ({
  features: stack(parts.map(({ features }) => features)),
  logProbs: stack(parts.map(({ logProbs }) => logProbs)),
  labels: parts.flatMap(({ labels }) => labels),
});

/** Figures of the pictures of all seeds together, each with its standard error over the seeds. */
export const figuresOf = (seeds: readonly Judged[], real: Reference): Figures =>
  figuresFrom((name) => jackknife(seeds, (some) => MEASURES[name](pooled(some), real)));

/** A row for each setting of the record: by sampler, what the U-Net sees, form and scale. */
export function figureRows(record: EvaluationRecord, real: Reference): Row[] {
  const bySetting = new Map<string, Chunk[]>();
  for (const chunk of record.chunks) {
    bySetting.set(chunk.setting, [...(bySetting.get(chunk.setting) ?? []), chunk]);
  }
  const order = ({ setting: { sampler, conditional, form, scale } }: Row): number[] => [
    sampler === 'ddim' ? 0 : 1,
    Number(conditional),
    FORMS.indexOf(form),
    scale,
  ];
  return [...bySetting]
    .map(([key, chunks]): Row => {
      const sorted = [...chunks].sort((a, b) => a.seed - b.seed);
      return {
        setting: readSettingKey(key),
        pictures: sorted.reduce((sum, { labels }) => sum + labels.length, 0),
        seeds: sorted.length,
        figures: figuresOf(sorted, real),
        outside: sorted.reduce((sum, { outside }) => sum + outside, 0) / sorted.length,
      };
    })
    .sort((a, b) => {
      const [p, q] = [order(a), order(b)];
      const differs = p.findIndex((value, i) => value !== q[i]);
      return differs < 0 ? 0 : p[differs]! - q[differs]!;
    });
}

/** Real pictures that are not in the reference, in the place of generated ones. */
export interface HeldOut extends Labelled {
  readonly logits: Vectors;
}

/** What as many real pictures get: mean and standard deviation over disjoint sets of `count`. */
export function realFigures({ features, logits, labels }: HeldOut, real: Reference, count: number): Figures | null {
  const { width } = logits;
  const sets = Array.from({ length: Math.floor(labels.length / count) }, (_, i): Judged => {
    const [from, to] = [i * count, (i + 1) * count];
    const logProbs = Array.from({ length: count }, (_row, r) =>
      logSoftmax(logits.data.subarray((from + r) * width, (from + r + 1) * width)),
    );
    return {
      features: rows(features, from, to),
      logProbs: vectors(logProbs.flat(), width),
      labels: labels.slice(from, to),
    };
  });
  if (sets.length === 0) return null;
  return figuresFrom((name) => {
    const list = sets.map((set) => MEASURES[name](set, real));
    const value = list.reduce((sum, v) => sum + v, 0) / list.length;
    const variance = list.reduce((sum, v) => sum + (v - value) ** 2, 0) / Math.max(1, list.length - 1);
    return { value, error: list.length > 1 ? Math.sqrt(variance) : null };
  });
}

/**
 * A figure where agreement first reaches `target`, on a straight line between the two scales around it; at the first scale
 * if that reaches it already, null if none does.
 *
 * @param sorted rows of one form, by scale
 */
export function atAgreement(
  sorted: readonly Row[],
  target: number,
  read: (row: Row) => number,
): { readonly scale: number; readonly value: number } | null {
  for (let i = 0; i < sorted.length; i++) {
    const here = sorted[i]!;
    const reached = here.figures.agreement.value;
    if (reached < target) continue;
    const before = sorted[i - 1];
    if (!before) return { scale: here.setting.scale, value: read(here) };
    const low = before.figures.agreement.value;
    const share = (target - low) / (reached - low);
    const between = (a: number, b: number) => a + share * (b - a);
    return {
      scale: between(before.setting.scale, here.setting.scale),
      value: between(read(before), read(here)),
    };
  }
  return null;
}
