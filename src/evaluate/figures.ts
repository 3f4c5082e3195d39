/**
 * @file From a record to figures: one row for each setting, against real pictures.
 */
import {
  agreement,
  coverage,
  type Estimate,
  frechetDistance,
  inceptionScore,
  jackknife,
  kernelDistance,
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
export interface Reference {
  readonly features: Vectors;
  readonly labels: readonly number[];
  readonly moments: Moments;
  readonly root: Float64Array;
  readonly kernel: number;
  readonly radii: Float64Array;
}

export function reference({ features, labels }: Labelled): Reference {
  const made = moments(features);
  return {
    features,
    labels,
    moments: made,
    root: squareRoot(made.covariance, made.width),
    kernel: kernelWithin({ features, labels }),
    radii: neighbourRadii(features, NEIGHBOURS),
  };
}

export interface Figures {
  readonly kernel: Estimate;
  readonly frechet: Estimate;
  readonly precision: Estimate;
  readonly recall: Estimate;
  readonly inception: Estimate;
  readonly agreement: Estimate;
}

export interface Row {
  readonly setting: Setting;
  readonly pictures: number;
  readonly seeds: number;
  readonly figures: Figures;
  /** The mean share of values that had to be clamped. */
  readonly outside: number;
}

type Group = Pick<Chunk, 'features' | 'logProbs' | 'labels'>;

/** Figures of all groups together, each with its standard error over the groups. */
export function figuresOf(groups: readonly Group[], real: Reference): Figures {
  const features = (some: readonly Group[]) => stack(some.map((group) => group.features));
  const labels = (some: readonly Group[]) => some.flatMap((group) => group.labels);
  const estimate = (statistic: (some: readonly Group[]) => number) => jackknife(groups, statistic);
  return {
    kernel: estimate((some) => kernelDistance(real, { features: features(some), labels: labels(some) }, real.kernel)),
    frechet: estimate((some) => frechetDistance(real.moments, moments(features(some)), real.root)),
    precision: estimate((some) => coverage(features(some), real.features, real.radii)),
    recall: estimate((some) => {
      const set = features(some);
      return coverage(real.features, set, neighbourRadii(set, NEIGHBOURS));
    }),
    inception: estimate((some) => inceptionScore(stack(some.map((group) => group.logProbs)))),
    agreement: estimate((some) => agreement(stack(some.map((group) => group.logProbs)), labels(some))),
  };
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
export function realFigures(held: HeldOut, real: Reference, count: number): Figures | null {
  const sets = Math.floor(held.labels.length / count);
  if (sets < 1) return null;
  const figures = Array.from({ length: sets }, (_, i) => {
    const [from, to] = [i * count, (i + 1) * count];
    const logits = rows(held.logits, from, to);
    const { width } = logits;
    const logProbs = Array.from({ length: count }, (_row, r) =>
      logSoftmax(logits.data.subarray(r * width, (r + 1) * width)),
    );
    const group = {
      features: rows(held.features, from, to),
      logProbs: vectors(logProbs.flat(), width),
      labels: held.labels.slice(from, to),
    };
    return figuresOf([group], real);
  });
  const over = (name: keyof Figures): Estimate => {
    const list = figures.map((f) => f[name].value);
    const value = list.reduce((sum, v) => sum + v, 0) / sets;
    const variance = list.reduce((sum, v) => sum + (v - value) ** 2, 0) / Math.max(1, sets - 1);
    return { value, error: sets > 1 ? Math.sqrt(variance) : null };
  };
  return {
    kernel: over('kernel'),
    frechet: over('frechet'),
    precision: over('precision'),
    recall: over('recall'),
    inception: over('inception'),
    agreement: over('agreement'),
  };
}

/**
 * A figure where agreement first reaches `target`, on a straight line between the two scales around it; null if no scale
 * reaches it. Rows of one form, by scale.
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
