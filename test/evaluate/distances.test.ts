/** @file Distances between sets of pictures, on distributions whose distance is known. */
import { describe, expect, test } from 'vitest';
import {
  agreement,
  classVariety,
  derived,
  frechetDistance,
  inceptionScore,
  jackknife,
  kernelDistances,
  moments,
  neighbourRadii,
  precisionRecall,
} from '../../src/evaluate/distances.ts';
import { eigen, product, squareRoot } from '../../src/evaluate/symmetric.ts';
import { type Vectors, vectors } from '../../src/evaluate/vectors.ts';
import { random } from '../device.ts';

/** Standard normal numbers from a seed (Box and Muller). */
function normal(seed: number): () => number {
  const uniform = random(seed);
  return () => Math.sqrt(-2 * Math.log(1 - (uniform() + 1) / 2)) * Math.cos(Math.PI * (uniform() + 1));
}

/** Rows of independent normal numbers with a mean and a deviation for each column. */
function gaussian(count: number, means: readonly number[], deviations: readonly number[], seed: number): Vectors {
  const next = normal(seed);
  const data = Array.from({ length: count }, () => means.map((mean, k) => mean + deviations[k]! * next()));
  return vectors(data.flat(), means.length);
}

const symmetric = (n: number, seed: number): Float64Array => {
  const next = random(seed);
  const a = Float64Array.from({ length: n * n }, next);
  const transposed = Float64Array.from({ length: n * n }, (_, i) => a[(i % n) * n + Math.floor(i / n)]!);
  return product(a, transposed, n);
};

describe('symmetric matrices', () => {
  test('eigenvalues of a matrix that has known ones', () => {
    const { values } = eigen(Float64Array.of(2, 1, 0, 1, 2, 0, 0, 0, -5), 3);
    [...values]
      .sort((a, b) => a - b)
      .forEach((value, i) => {
        expect(value).toBeCloseTo([-5, 1, 3][i]!, 12);
      });
  });

  test('a square root squares to the matrix', () => {
    const matrix = symmetric(20, 1);
    const root = squareRoot(matrix, 20);
    const squared = product(root, root, 20);
    for (let i = 0; i < matrix.length; i++) expect(squared[i]).toBeCloseTo(matrix[i]!, 10);
  });

  test('the square root of a matrix of rank one', () => {
    const root = squareRoot(Float64Array.of(9, 12, 12, 16), 2);
    [1.8, 2.4, 2.4, 3.2].forEach((value, i) => {
      expect(root[i]).toBeCloseTo(value, 10);
    });
  });
});

describe('Fréchet distance', () => {
  const exact = (mean: number[], covariance: number[]) => ({
    width: mean.length,
    mean: Float64Array.from(mean),
    covariance: Float64Array.from(covariance),
  });

  test('of Gaussians whose covariances commute: squared differences of means and deviations', () => {
    const a = exact([0, 1], [4, 0, 0, 9]);
    const b = exact([3, 1], [1, 0, 0, 25]);
    expect(frechetDistance(a, b)).toBeCloseTo(9 + (2 - 1) ** 2 + (3 - 5) ** 2, 10);
    expect(frechetDistance(b, a)).toBeCloseTo(frechetDistance(a, b), 10);
    expect(frechetDistance(a, a)).toBeCloseTo(0, 10);
  });

  test('of Gaussians whose covariances do not commute', () => {
    // For 2 x 2 matrices tr(M^½) = sqrt(tr M + 2 sqrt(det M)), with M = C1^½ C2 C1^½: tr M = tr(C1 C2), det M = det C1 det C2.
    const a = exact([0, 0], [2, 1, 1, 2]);
    const b = exact([0, 0], [1, 0, 0, 6]);
    const root = Math.sqrt(2 * 1 + 2 * 6 + 2 * Math.sqrt(3 * 6));
    expect(frechetDistance(a, b)).toBeCloseTo(4 + 7 - 2 * root, 10);
  });

  test('of samples it approaches that of their Gaussians', () => {
    const a = moments(gaussian(20_000, [0, 0, 0], [1, 1, 2], 1));
    const b = moments(gaussian(20_000, [1, 0, 0], [1, 3, 2], 2));
    expect(a.covariance[8]).toBeCloseTo(4, 0);
    expect(Math.abs(frechetDistance(a, b) - (1 + 4))).toBeLessThan(0.15);
  });
});

describe('kernel distance', () => {
  const one = (features: Vectors) => ({ features, labels: Array<number>(features.count).fill(0) });
  const mean = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const kernelDistance = (...sets: Parameters<typeof kernelDistances>) => kernelDistances(...sets).all;
  const standardError = (list: readonly number[]) =>
    Math.sqrt(mean(list.map((value) => (value - mean(list)) ** 2)) / list.length);

  test('by its definition, on three and two points', () => {
    const a = vectors([0, 0, 1, 0, 0, 2], 2);
    const b = vectors([1, 1, -1, 0], 2);
    // (x·y / 2 + 1)³ of the pairs within a, within b, and across.
    const within = (1 + 1 + 1) / 3 + (-1 / 2 + 1) ** 3;
    const between = (1 + 1 + 1.5 ** 3 + 0.5 ** 3 + 2 ** 3 + 1) / 6;
    expect(kernelDistance(one(a), one(b))).toBeCloseTo(within - 2 * between, 12);
  });

  test('is 0 on average for sets of one distribution, however small, and clearly not for others', () => {
    const trials = Array.from({ length: 400 }, (_, i) =>
      kernelDistance(one(gaussian(12, [0, 0], [1, 1], 2 * i + 1)), one(gaussian(5, [0, 0], [1, 1], 2 * i + 2))),
    );
    expect(Math.abs(mean(trials))).toBeLessThan(3 * standardError(trials));
    expect(trials.some((value) => value < 0)).toBe(true);
    const apart = kernelDistance(one(gaussian(200, [0, 0], [1, 1], 1)), one(gaussian(200, [2, 0], [1, 1], 2)));
    expect(apart).toBeGreaterThan(20 * Math.abs(mean(trials)));
  });

  test('stays 0 on average where a set has equally many of classes that lie far apart', () => {
    const labels = [0, 1, 2, 0, 1, 2];
    const set = (seed: number) => {
      const spread = gaussian(6, [0, 0], [0.3, 0.3], seed);
      return {
        features: vectors(
          spread.data.map((v, i) => v + 2 * (labels[i >> 1]! - 1)),
          2,
        ),
        labels,
      };
    };
    const trials = Array.from({ length: 300 }, (_, i) => kernelDistance(set(2 * i + 1), set(2 * i + 2)));
    expect(Math.abs(mean(trials))).toBeLessThan(3 * standardError(trials));
    // Taken as random draws, the same sets would seem far too much alike: this is what the labels are for.
    const blind = Array.from({ length: 300 }, (_, i) =>
      kernelDistance(one(set(2 * i + 1).features), one(set(2 * i + 2).features)),
    );
    expect(mean(blind)).toBeLessThan(-10 * standardError(blind));
    const byClass = Array.from({ length: 300 }, (_, i) => kernelDistances(set(2 * i + 1), set(2 * i + 2)).byClass);
    expect(Math.abs(mean(byClass))).toBeLessThan(3 * standardError(byClass));
    expect(() => kernelDistance(set(1), { features: vectors([1, 2, 3, 4], 2), labels: [0, 1] })).toThrow(
      'at least 2 pictures of each class',
    );
  });
});

describe('precision and recall', () => {
  const real = gaussian(400, [0, 0], [1, 1], 1);

  test('a narrow set inside the real one is precise and recalls little', () => {
    const { precision, recall } = precisionRecall(real, gaussian(400, [0, 0], [0.1, 0.1], 2));
    expect(precision).toBeGreaterThan(0.95);
    expect(recall).toBeLessThan(0.2);
  });

  test('a wide set around the real one is imprecise and recalls much', () => {
    const { precision, recall } = precisionRecall(real, gaussian(400, [0, 0], [6, 6], 3));
    expect(precision).toBeLessThan(0.3);
    expect(recall).toBeGreaterThan(0.85);
  });

  test('the same distribution has both, and one far away has neither', () => {
    const same = precisionRecall(real, gaussian(400, [0, 0], [1, 1], 4));
    expect(Math.min(same.precision, same.recall)).toBeGreaterThan(0.85);
    expect(precisionRecall(real, gaussian(400, [50, 0], [1, 1], 5))).toEqual({ precision: 0, recall: 0 });
  });

  test('radii reach to the third other picture', () => {
    expect([...neighbourRadii(vectors([0, 1, 3, 6, 10], 1), 3)]).toEqual([36, 25, 9, 25, 81]);
    expect(() => neighbourRadii(vectors([0, 1, 2], 1), 3)).toThrow('needs more than 3 pictures, found 3');
  });
});

describe('probabilities', () => {
  const certain = (k: number) => Array.from({ length: 4 }, (_, i) => (i === k ? 0 : Number.NEGATIVE_INFINITY));

  test('inception score: the number of classes found, if each is certain', () => {
    expect(inceptionScore(vectors([0, 1, 2, 3].flatMap(certain), 4))).toBeCloseTo(4, 12);
    expect(inceptionScore(vectors([0, 1, 0, 1].flatMap(certain), 4))).toBeCloseTo(2, 12);
    expect(inceptionScore(vectors(Array(12).fill(Math.log(0.25)), 4))).toBeCloseTo(1, 12);
  });

  test('agreement counts the most likely class', () => {
    const logProbs = vectors(
      [
        [0.7, 0.2, 0.1],
        [0.3, 0.4, 0.3],
        [0.1, 0.1, 0.8],
      ]
        .flat()
        .map(Math.log),
      3,
    );
    expect(agreement(logProbs, [0, 1, 1])).toBeCloseTo(2 / 3, 12);
  });
});

test('distances by class tell pictures of the wrong class from right ones, which distances of all do not', () => {
  const labels = Array.from({ length: 40 }, (_, i) => i % 2);
  const set = (seed: number, turned: boolean) => {
    const spread = gaussian(40, [0, 0], [0.3, 0.3], seed);
    const classOf = (i: number) => (turned ? 1 - labels[i]! : labels[i]!);
    return {
      features: vectors(
        spread.data.map((v, i) => v + 3 * classOf(i >> 1)),
        2,
      ),
      labels,
    };
  };
  const right = kernelDistances(set(1, false), set(2, false));
  const wrong = kernelDistances(set(1, false), set(2, true));
  expect(wrong.byClass).toBeGreaterThan(50 * Math.abs(right.byClass));
  expect(Math.abs(wrong.all)).toBeLessThan(wrong.byClass / 50);
});

test('variety is twice the variance within a class, whatever lies between classes', () => {
  const labels = Array.from({ length: 2000 }, (_, i) => i % 4);
  const spread = gaussian(2000, [0, 0], [2, 1], 1);
  const features = vectors(
    spread.data.map((v, i) => v + 10 * labels[i >> 1]!),
    2,
  );
  expect(Math.abs(classVariety({ features, labels }) - 2 * (4 + 1))).toBeLessThan(0.5);
});

test('the jackknife of a mean is its standard error', () => {
  const groups = [1, 4, 4, 9, 2];
  const { value, error } = jackknife(groups, (some) => some.reduce((sum, v) => sum + v, 0) / some.length);
  expect(value).toBe(4);
  const variance = groups.reduce((sum, v) => sum + (v - 4) ** 2, 0) / 4;
  expect(error).toBeCloseTo(Math.sqrt(variance / 5), 12);
  expect(jackknife([3], ([v]) => v!)).toEqual({ value: 3, error: null, without: [] });
});

test('what is derived from estimates has the error of the same computed from the groups', () => {
  const groups = [
    [1, 5],
    [4, 2],
    [4, 3],
    [9, 1],
  ];
  const mean = (k: number) => (some: readonly (readonly number[])[]) =>
    some.reduce((sum, group) => sum + group[k]!, 0) / some.length;
  const [x, y] = [jackknife(groups, mean(0)), jackknife(groups, mean(1))];
  const ratio = derived([x, y], ([a, b]) => a! / b!);
  const direct = jackknife(groups, (some) => mean(0)(some) / mean(1)(some));
  expect(ratio).toEqual(direct);
  expect(derived([x, { ...y, without: [] }], ([a, b]) => a! + b!)).toEqual({
    value: x.value + y.value,
    error: null,
    without: [],
  });
});
