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

/**
 * The mean kernel of two pictures of one distribution, from different pictures of a set with equally many of each class.
 *
 * Two pictures drawn at random share their class more often than two different pictures of such a set do. So pairs within
 * a class and pairs across are averaged apart, and put together as they would occur.
 */
export function kernelWithin({ features, labels }: Labelled): number {
  const classes = new Set(labels).size;
  const sums = { same: 0, other: 0 };
  const pairs = { same: 0, other: 0 };
  for (let i = 0; i < features.count; i++) {
    for (let j = 0; j < i; j++) {
      const kind = labels[i] === labels[j] ? 'same' : 'other';
      sums[kind] += kernel(features, i, features, j);
      pairs[kind]++;
    }
  }
  if (pairs.same === 0) throw new OptionError('a kernel distance needs at least 2 pictures of each class');
  const other = classes === 1 ? 0 : (1 - 1 / classes) * (sums.other / pairs.other);
  return sums.same / pairs.same / classes + other;
}

/**
 * The squared maximum mean discrepancy, unbiased (Bińkowski et al. 2018, "KID"): its expectation does not depend on the
 * number of pictures, so it may be negative by chance where the sets are alike.
 *
 * @param a, b sets with equally many pictures of each class, at least 2
 */
export function kernelDistance(a: Labelled, b: Labelled, withinA = kernelWithin(a)): number {
  const [p, q] = [a.features, b.features];
  let between = 0;
  for (let i = 0; i < p.count; i++) for (let j = 0; j < q.count; j++) between += kernel(p, i, q, j);
  return withinA + kernelWithin(b) - (2 * between) / (p.count * q.count);
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

/**
 * A statistic of all groups together, and its standard error from leaving out one group at a time (the jackknife): for
 * statistics that are no mean over pictures.
 */
export function jackknife<T>(groups: readonly T[], statistic: (groups: readonly T[]) => number): Estimate {
  const value = statistic(groups);
  const n = groups.length;
  if (n < 2) return { value, error: null };
  const without = groups.map((_, left) => statistic(groups.filter((_group, i) => i !== left)));
  const mean = without.reduce((sum, v) => sum + v, 0) / n;
  return { value, error: Math.sqrt(((n - 1) / n) * without.reduce((sum, v) => sum + (v - mean) ** 2, 0)) };
}
