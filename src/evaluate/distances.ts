/**
 * @file How far a set of pictures is from another, in features: Fréchet distance, kernel distance, precision and recall,
 * and what a classifier's probabilities say without a second set.
 *
 * All in float64. Which of them depend on the number of pictures is said at each: compare those at equal counts only.
 */
import { OptionError } from '../runtime/errors.ts';
import { eigen, product, squareRoot, trace } from './symmetric.ts';
import { inner, squaredDistance, type Vectors } from './vectors.ts';

export interface Moments {
  readonly width: number;
  readonly mean: Float64Array;
  /** [width, width]; divided by count - 1. */
  readonly covariance: Float64Array;
}

export function moments({ count, width, data }: Vectors): Moments {
  if (count < 2) throw new OptionError(`a covariance needs at least 2 pictures, found ${count}`);
  const mean = new Float64Array(width);
  for (let i = 0; i < data.length; i++) mean[i % width]! += data[i]! / count;
  const covariance = new Float64Array(width * width);
  const centred = new Float64Array(width);
  for (let row = 0; row < count; row++) {
    for (let k = 0; k < width; k++) centred[k] = data[row * width + k]! - mean[k]!;
    for (let i = 0; i < width; i++)
      for (let j = 0; j < width; j++) covariance[i * width + j]! += (centred[i]! * centred[j]!) / (count - 1);
  }
  return { width, mean, covariance };
}

/**
 * |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½) of two Gaussians (Heusel et al. 2017).
 *
 * Biased upwards by an amount that shrinks with the number of pictures.
 */
export function frechetDistance(a: Moments, b: Moments, rootOfA = squareRoot(a.covariance, a.width)): number {
  const n = a.width;
  let means = 0;
  for (let k = 0; k < n; k++) means += (a.mean[k]! - b.mean[k]!) ** 2;
  const between = product(product(rootOfA, b.covariance, n), rootOfA, n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < i; j++) {
      // Rounding leaves it not quite symmetric.
      const both = (between[i * n + j]! + between[j * n + i]!) / 2;
      between[i * n + j] = both;
      between[j * n + i] = both;
    }
  const shared = eigen(between, n).values.reduce((sum, value) => sum + Math.sqrt(Math.max(0, value)), 0);
  return means + trace(a.covariance, n) + trace(b.covariance, n) - 2 * shared;
}

/** (x·y / width + 1)³, the kernel of Bińkowski et al. 2018. */
const kernel = (a: Vectors, i: number, b: Vectors, j: number): number => (inner(a, i, b, j) / a.width + 1) ** 3;

/** Pictures with the class each was made for, or belongs to. */
export interface Labelled {
  readonly features: Vectors;
  readonly labels: readonly number[];
}

/** Means over pairs of pictures by their classes, [K, K]; NaN where a class has no pair. */
export interface ClassPairs {
  readonly classes: number;
  readonly means: Float64Array;
}

/** @param pair what is averaged, of row i of a and row j of b; within one set, over different pictures alone */
function classPairs(a: Labelled, b: Labelled, pair: (i: number, j: number) => number): ClassPairs {
  const classes = 1 + Math.max(...a.labels, ...b.labels);
  const sums = new Float64Array(classes * classes);
  const counts = new Float64Array(classes * classes);
  for (let i = 0; i < a.features.count; i++) {
    for (let j = 0; j < b.features.count; j++) {
      if (a === b && i === j) continue;
      const at = a.labels[i]! * classes + b.labels[j]!;
      sums[at]! += pair(i, j);
      counts[at]!++;
    }
  }
  return { classes, means: sums.map((sum, i) => sum / counts[i]!) };
}

const mean = (list: Iterable<number>): number => {
  const present = [...list].filter((value) => !Number.isNaN(value));
  return present.reduce((sum, value) => sum + value, 0) / present.length;
};

const diagonal = ({ classes, means }: ClassPairs): number =>
  mean(Array.from({ length: classes }, (_, k) => means[k * classes + k]!));

const everywhere = ({ classes, means }: ClassPairs): number => {
  const across = mean(means.filter((_, i) => i % (classes + 1) !== 0));
  return diagonal({ classes, means }) / classes + (classes === 1 ? 0 : across * (1 - 1 / classes));
};

/** The mean kernel of two different pictures of a set, by their classes. */
export function kernelWithin(set: Labelled): ClassPairs {
  const pairs = classPairs(set, set, (i, j) => kernel(set.features, i, set.features, j));
  if (Number.isNaN(diagonal(pairs))) throw new OptionError('a kernel distance needs at least 2 pictures of each class');
  return pairs;
}

export interface KernelDistances {
  /**
   * The squared maximum mean discrepancy, unbiased (Bińkowski et al. 2018, "KID"): its expectation does not depend on the
   * number of pictures, so it may be negative by chance where the sets are alike.
   */
  readonly all: number;
  /** The mean of the same for each class by itself: pictures of a class against real ones of that class. */
  readonly byClass: number;
}

/**
 * Two pictures drawn at random share their class more often than two different pictures of a set with equally many of each
 * do. So pairs are averaged by their classes first, and put together as they would occur.
 *
 * @param a, b sets with equally many pictures of each class, at least 2
 */
export function kernelDistances(a: Labelled, b: Labelled, withinA = kernelWithin(a)): KernelDistances {
  const withinB = kernelWithin(b);
  const between = classPairs(a, b, (i, j) => kernel(a.features, i, b.features, j));
  return {
    all: everywhere(withinA) + everywhere(withinB) - 2 * everywhere(between),
    byClass: diagonal(withinA) + diagonal(withinB) - 2 * diagonal(between),
  };
}

/** The mean squared distance of two different pictures of one class: how varied a class is. */
export function classVariety(set: Labelled): number {
  return diagonal(classPairs(set, set, (i, j) => squaredDistance(set.features, i, set.features, j)));
}

/** The squared distance of each picture to its k-th nearest other one. */
export function neighbourRadii(set: Vectors, k = 3): Float64Array {
  if (set.count <= k) throw new OptionError(`the ${k}-th neighbour needs more than ${k} pictures, found ${set.count}`);
  const radii = new Float64Array(set.count);
  const distances = new Float64Array(set.count - 1);
  for (let i = 0; i < set.count; i++) {
    let at = 0;
    for (let j = 0; j < set.count; j++) if (j !== i) distances[at++] = squaredDistance(set, i, set, j);
    radii[i] = distances.sort()[k - 1]!;
  }
  return radii;
}

/** The share of `points` that lie within the ball of at least one picture of `set`. */
export function coverage(points: Vectors, set: Vectors, radii: Float64Array): number {
  let covered = 0;
  for (let i = 0; i < points.count; i++) {
    for (let j = 0; j < set.count; j++) {
      if (squaredDistance(points, i, set, j) <= radii[j]!) {
        covered++;
        break;
      }
    }
  }
  return covered / points.count;
}

export interface PrecisionRecall {
  /** The share of generated pictures among the real ones: how typical they are. */
  readonly precision: number;
  /** The share of real pictures among the generated ones: how varied those are. Grows with their number. */
  readonly recall: number;
}

/** Improved precision and recall (Kynkäänniemi et al. 2019): a set is the union of balls to the k-th neighbour. */
export function precisionRecall(
  real: Vectors,
  generated: Vectors,
  { k = 3, realRadii = neighbourRadii(real, k) }: { readonly k?: number; readonly realRadii?: Float64Array } = {},
): PrecisionRecall {
  return {
    precision: coverage(generated, real, realRadii),
    recall: coverage(real, generated, neighbourRadii(generated, k)),
  };
}

/**
 * exp(mean KL(p(y | x) ‖ p(y))) (Salimans et al. 2016) with any classifier in Inception's place: 1 if all pictures look
 * alike to it, the number of classes if it is sure of each and finds all equally often.
 *
 * @param logProbs log p(k | x), a row for each picture
 */
export function inceptionScore({ count, width, data }: Vectors): number {
  const marginal = new Float64Array(width);
  for (let i = 0; i < data.length; i++) marginal[i % width]! += Math.exp(data[i]!) / count;
  let divergence = 0;
  for (let i = 0; i < data.length; i++) {
    const p = Math.exp(data[i]!);
    if (p > 0) divergence += (p * (data[i]! - Math.log(marginal[i % width]!))) / count;
  }
  return Math.exp(divergence);
}

/** The share of pictures whose most likely class is the one that was asked for. */
export function agreement(logProbs: Vectors, labels: readonly number[]): number {
  let right = 0;
  for (let i = 0; i < logProbs.count; i++) {
    const row = logProbs.data.subarray(i * logProbs.width, (i + 1) * logProbs.width);
    if (row.indexOf(Math.max(...row)) === labels[i]) right++;
  }
  return right / logProbs.count;
}

export interface Estimate {
  readonly value: number;
  /** Standard error, or null with a single group. */
  readonly error: number | null;
}

/** An estimate with what it is without each of its groups in turn: none if there is but one. */
export interface Jackknifed extends Estimate {
  readonly without: readonly number[];
}

/**
 * A statistic of all groups together, and its standard error from leaving out one group at a time (the jackknife): for
 * statistics that are no mean over pictures.
 */
export function jackknife<T>(groups: readonly T[], statistic: (groups: readonly T[]) => number): Jackknifed {
  const left = groups.length < 2 ? [] : groups.map((_, k) => groups.filter((_group, i) => i !== k));
  return withError(statistic(groups), left.map(statistic));
}

/**
 * A function of several estimates, with its own standard error: what they share, such as the noise that their pictures were
 * made from, is taken into account.
 *
 * @param parts of the same groups; with others in each the error is null
 */
export function derived(parts: readonly Jackknifed[], of: (values: readonly number[]) => number): Jackknifed {
  const groups = parts[0]?.without.length ?? 0;
  const alike = parts.every(({ without }) => without.length === groups);
  const without = Array.from({ length: alike ? groups : 0 }, (_, k) => of(parts.map((part) => part.without[k]!)));
  return withError(of(parts.map(({ value }) => value)), without);
}

function withError(value: number, without: readonly number[]): Jackknifed {
  const n = without.length;
  if (n < 2 || without.some(Number.isNaN)) return { value, error: null, without };
  const center = without.reduce((sum, v) => sum + v, 0) / n;
  const error = Math.sqrt(((n - 1) / n) * without.reduce((sum, v) => sum + (v - center) ** 2, 0));
  return { value, error, without };
}
