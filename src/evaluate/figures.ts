/**
 * @file From a record to figures: one row for each setting, against real pictures.
 */
import {
  agreement,
  type ClassPairs,
  classVariety,
  coverage,
  derived,
  type Estimate,
  frechetDistance,
  inceptionScore,
  type Jackknifed,
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

/** Figures with what they are without each group of pictures. */
export type JackknifedFigures = Readonly<Record<Measure, Jackknifed>>;

const figuresFrom = <T extends Estimate>(estimate: (name: Measure) => T): Readonly<Record<Measure, T>> =>
  Object.fromEntries(NAMES.map((name) => [name, estimate(name)])) as Record<Measure, T>;

export interface Row {
  readonly setting: Setting;
  readonly pictures: number;
  readonly seeds: readonly number[];
  readonly figures: JackknifedFigures;
  /** The mean share of values that had to be clamped. */
  readonly outside: number;
}

const pooled = (parts: readonly Judged[]): Judged => ({
  features: stack(parts.map(({ features }) => features)),
  logProbs: stack(parts.map(({ logProbs }) => logProbs)),
  labels: parts.flatMap(({ labels }) => labels),
});

const part = ({ features, logProbs, labels }: Judged, from: number, to: number): Judged => ({
  features: rows(features, from, to),
  logProbs: rows(logProbs, from, to),
  labels: labels.slice(from, to),
});

/** Groups to leave out; more would cost time and tell little. */
const MOST_GROUPS = 12;

/**
 * Pictures in groups with equally many of each class, or one group if leaving one of them out would leave less than two
 * pictures of a class. Each picture has noise of its own, so a group need not be a seed: a few seeds are too few to tell
 * how large their spread is.
 *
 * @param all classes in turn
 */
function groupsOf(all: Judged): Judged[] {
  const classes = 1 + Math.max(...all.labels);
  const turns = Math.floor(all.labels.length / classes);
  const count = Math.min(turns, MOST_GROUPS);
  if (count < 3) return [all];
  const start = (k: number) => (k === count ? all.labels.length : classes * Math.floor((k * turns) / count));
  return Array.from({ length: count }, (_, k) => part(all, start(k), start(k + 1)));
}

/**
 * Figures of the pictures of all seeds together, each with its standard error; but recall has none: with fewer pictures the
 * balls of a class reach into others, so what is left tells nothing of the spread.
 */
export const figuresOf = (seeds: readonly Judged[], real: Reference): JackknifedFigures => {
  const groups = groupsOf(pooled(seeds));
  return figuresFrom((name) =>
    jackknife(name === 'recall' ? [pooled(groups)] : groups, (some) => MEASURES[name](pooled(some), real)),
  );
};

/** Rows of the same seeds have the same noise, picture by picture; of others, leaving out the same group means nothing. */
const sameSeeds = (some: readonly Row[]): boolean => new Set(some.map(({ seeds }) => seeds.join())).size === 1;

const alone = (one: Jackknifed): Jackknifed => ({ ...one, without: [] });

/** `b` less `a` by one measure; the error is null unless both are of the same seeds. */
export function difference(a: Row, b: Row, name: Measure): Jackknifed {
  const parts = [a.figures[name], b.figures[name]];
  return derived(sameSeeds([a, b]) ? parts : parts.map(alone), ([x, y]) => y! - x!);
}

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
        seeds: sorted.map(({ seed }) => seed),
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
 * Where a rising line through points first reaches `target`: between points i - 1 and i, a share of the way; 0 if the first
 * point does already, NaN if none does.
 */
function crossing(heights: readonly number[], target: number): number {
  const i = heights.findIndex((height) => height >= target);
  if (i < 1) return i === 0 ? 0 : Number.NaN;
  return i - 1 + (target - heights[i - 1]!) / (heights[i]! - heights[i - 1]!);
}

/** On straight lines between values at whole places; NaN at NaN. */
function between(values: readonly number[], place: number): number {
  if (Number.isNaN(place)) return place;
  const i = Math.min(Math.floor(place), values.length - 2);
  return i < 0 ? values[0]! : values[i]! + (place - i) * (values[i + 1]! - values[i]!);
}

/** The scale at which agreement first reaches `target`, on straight lines between scales; the first if that does, NaN if none. */
export const scaleAtAgreement = (sorted: readonly Row[], target: number): number =>
  between(
    sorted.map(({ setting }) => setting.scale),
    crossing(
      sorted.map(({ figures }) => figures.agreement.value),
      target,
    ),
  );

/**
 * A figure where agreement first reaches `target`, on straight lines between the scales; at the first scale if that reaches
 * it already, NaN if none does. That the place itself is measured is part of the error.
 *
 * @param sorted rows of one form, by scale
 */
export function atAgreement(sorted: readonly Row[], target: number, name: Measure): Jackknifed {
  const n = sorted.length;
  const parts = [...sorted.map(({ figures }) => figures.agreement), ...sorted.map(({ figures }) => figures[name])];
  return derived(sameSeeds(sorted) ? parts : parts.map(alone), (values) =>
    between(values.slice(n), crossing(values.slice(0, n), target)),
  );
}

/** The same figure of rows `b` less that of rows `a`. */
export function differenceAtAgreement(a: readonly Row[], b: readonly Row[], target: number, name: Measure): Jackknifed {
  const parts = [atAgreement(a, target, name), atAgreement(b, target, name)];
  return derived(sameSeeds([...a, ...b]) ? parts : parts.map(alone), ([x, y]) => y! - x!);
}
