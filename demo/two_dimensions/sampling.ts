/**
 * @file DDPM on the exact mixture, guided in both ways. The noise is the same for every scale and both ways, so that each
 * point can be followed while the scale is dragged.
 */
import { gaussianNoise } from '../../src/diffusion/noise.ts';
import { CLASSES, classifierGradient, evaluate, type Point } from './mixture.ts';

export type Way = 'classifier' | 'free';

export const STEPS = 40;

/** Levels abar of a short cosine schedule, from nearly noise to nearly data. */
export const LEVELS: readonly number[] = Array.from({ length: STEPS }, (_, i) => {
  const share = (STEPS - i) / (STEPS + 0.5);
  return Math.cos((share * Math.PI) / 2) ** 2;
});

/** The starting points and every step's noise, drawn once: [STEPS + 1][points][2]. */
export function drawNoise(points: number, seed = 3): Float32Array[] {
  return Array.from({ length: STEPS + 1 }, (_, step) =>
    gaussianNoise({ seed, firstImage: 0, step, stream: 0 }, { n: points, c: 2, h: 1, w: 1 }),
  );
}

/**
 * Where the points end.
 *
 * - `classifier`: the score of all data; the mean of each step moved by s * variance * grad log p(y | x_t), as algorithm 1
 *   of Dhariwal & Nichol.
 * - `free`: the two scores a network would learn with and without the class, extrapolated:
 *   score + s * (score of y - score), in place of the score.
 */
export function samplePlane(way: Way, y: number, scale: number, noise: readonly Float32Array[]): Float32Array {
  const points = Float32Array.from(noise[0]!);
  for (let i = 0; i < STEPS; i++) {
    const abar = LEVELS[i]!;
    const next = i + 1 < STEPS ? LEVELS[i + 1]! : 1;
    const alpha = abar / next;
    const variance = ((1 - next) / (1 - abar)) * (1 - alpha);
    const fresh = noise[i + 1]!;
    for (let p = 0; p < points.length; p += 2) {
      const x: Point = [points[p]!, points[p + 1]!];
      const at = evaluate(x, abar);
      const gradient = classifierGradient(at, y);
      for (const axis of [0, 1] as const) {
        const score = at.score[axis] + (way === 'free' ? scale * gradient[axis] : 0);
        const start = (x[axis] + (1 - abar) * score) / Math.sqrt(abar);
        const mean =
          (Math.sqrt(next) * (1 - alpha) * start + Math.sqrt(alpha) * (1 - next) * x[axis]) / (1 - abar) +
          (way === 'classifier' ? scale * variance * gradient[axis] : 0);
        points[p + axis] = mean + Math.sqrt(variance) * fresh[p + axis]!;
      }
    }
  }
  return points;
}

export interface PlaneFigures {
  /** Share of the points that the exact classifier gives to the asked class. */
  readonly within: number;
  /** Root mean square distance of the points from their centre: how varied they are. */
  readonly spread: number;
}

export function figuresOf(points: Float32Array, y: number): PlaneFigures {
  const count = points.length / 2;
  let within = 0;
  let [sx, sy, squares] = [0, 0, 0];
  for (let p = 0; p < points.length; p += 2) {
    const [px, py] = [points[p]!, points[p + 1]!];
    const { posterior } = evaluate([px, py], 1);
    if (posterior[y] === Math.max(...posterior)) within++;
    sx += px;
    sy += py;
    squares += px * px + py * py;
  }
  const variance = squares / count - (sx / count) ** 2 - (sy / count) ** 2;
  return { within: within / count, spread: Math.sqrt(Math.max(0, variance)) };
}

export const classCount = CLASSES.length;
