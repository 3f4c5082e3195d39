/**
 * @file Three Gaussians in the plane under the diffusion process, exactly: densities, scores, and the classifier that
 * follows from them by Bayes' rule. No network, so nothing here is approximate but the number of steps.
 *
 * A Gaussian N(m, C) that has been diffused to level abar is N(sqrt(abar) m, abar C + (1 - abar) I).
 */

export type Point = readonly [number, number];

export interface Gaussian {
  readonly mean: Point;
  /** Covariance [xx, xy, yy]. */
  readonly covariance: readonly [number, number, number];
}

/** Three classes of equal weight whose borders overlap. */
export const CLASSES: readonly Gaussian[] = [
  { mean: [-1.0, -0.55], covariance: [0.32, 0.1, 0.16] },
  { mean: [1.0, -0.6], covariance: [0.3, -0.09, 0.18] },
  { mean: [0.0, 0.95], covariance: [0.2, 0, 0.3] },
];

export interface Evaluated {
  /** log p(x | k) of each class at the noise level. */
  readonly logDensities: readonly number[];
  /** Gradients of log p(x | k). */
  readonly scores: readonly Point[];
  /** p(k | x). */
  readonly posterior: readonly number[];
  /** Gradient of log p(x). */
  readonly score: Point;
}

/** Everything about a point at the level `abar`; 1 is the data itself. */
export function evaluate([x, y]: Point, abar: number): Evaluated {
  const root = Math.sqrt(abar);
  const logDensities: number[] = [];
  const scores: Point[] = [];
  for (const { mean, covariance } of CLASSES) {
    const xx = abar * covariance[0] + 1 - abar;
    const xy = abar * covariance[1];
    const yy = abar * covariance[2] + 1 - abar;
    const determinant = xx * yy - xy * xy;
    const dx = x - root * mean[0];
    const dy = y - root * mean[1];
    const sx = -(yy * dx - xy * dy) / determinant;
    const sy = -(xx * dy - xy * dx) / determinant;
    scores.push([sx, sy]);
    logDensities.push(0.5 * (sx * dx + sy * dy) - 0.5 * Math.log(determinant) - Math.log(2 * Math.PI));
  }
  const peak = Math.max(...logDensities);
  const weights = logDensities.map((l) => Math.exp(l - peak));
  const total = weights.reduce((a, b) => a + b, 0);
  const posterior = weights.map((w) => w / total);
  const mix = (axis: 0 | 1) => scores.reduce((sum, s, k) => sum + posterior[k]! * s[axis], 0);
  return { logDensities, scores, posterior, score: [mix(0), mix(1)] };
}

/** The gradient of log p(y | x): what a perfect noisy classifier would give. */
export function classifierGradient({ scores, score }: Evaluated, y: number): Point {
  const own = scores[y]!;
  return [own[0] - score[0], own[1] - score[1]];
}
