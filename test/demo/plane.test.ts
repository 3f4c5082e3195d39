/** @file The exact mixture: scores are gradients, and guidance does what the panel says it does. */
import { expect, test } from 'vitest';
import { classifierGradient, evaluate, type Point } from '../../demo/two_dimensions/mixture.ts';
import { drawNoise, figuresOf, LEVELS, samplePlane } from '../../demo/two_dimensions/sampling.ts';

const POINTS: readonly Point[] = [
  [0.3, -0.2],
  [-1.4, 1.1],
  [2, 0.4],
];

function slope(f: (x: Point) => number, [x, y]: Point): Point {
  const step = 1e-5;
  return [(f([x + step, y]) - f([x - step, y])) / (2 * step), (f([x, y + step]) - f([x, y - step])) / (2 * step)];
}

test('scores and the classifier’s gradient are gradients of the densities, at every level', () => {
  for (const abar of [1, 0.6, 0.02]) {
    for (const point of POINTS) {
      const at = evaluate(point, abar);
      for (let k = 0; k < 3; k++) {
        const score = slope((x) => evaluate(x, abar).logDensities[k]!, point);
        const gradient = slope((x) => Math.log(evaluate(x, abar).posterior[k]!), point);
        for (const axis of [0, 1] as const) {
          expect(at.scores[k]![axis]).toBeCloseTo(score[axis], 6);
          expect(classifierGradient(at, k)[axis]).toBeCloseTo(gradient[axis], 5);
        }
      }
    }
  }
});

test('densities integrate to one', () => {
  let sum = 0;
  const cell = 0.05;
  for (let x = -6; x < 6; x += cell)
    for (let y = -6; y < 6; y += cell) sum += Math.exp(evaluate([x, y], 0.5).logDensities[1]!);
  expect(sum * cell * cell).toBeCloseTo(1, 4);
});

test('the levels go from noise to data', () => {
  expect(LEVELS[0]).toBeLessThan(0.01);
  expect(LEVELS.at(-1)).toBeGreaterThan(0.99);
  expect([...LEVELS].sort((a, b) => a - b)).toEqual([...LEVELS]);
});

test('at scale 0 all classes appear; with the scale samples gather in the asked one, both ways', () => {
  const noise = drawNoise(600);
  for (const way of ['classifier', 'free'] as const) {
    const at = (scale: number) => figuresOf(samplePlane(way, 0, scale, noise), 0);
    expect(at(0).within).toBeGreaterThan(0.25);
    expect(at(0).within).toBeLessThan(0.42);
    expect(at(1).within).toBeGreaterThan(0.85);
    expect(at(8).within).toBeGreaterThan(0.99);
    expect(at(8).spread).toBeLessThan(at(1).spread);
    expect(at(1).spread).toBeLessThan(at(0).spread);
  }
  expect(samplePlane('free', 0, 3, noise)).toEqual(samplePlane('free', 0, 3, noise));
});
