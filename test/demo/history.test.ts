/** @file What is kept of a run. */
import { expect, test } from 'vitest';
import { History, heatOf, type StepValues } from '../../demo/history.ts';

const shape = { n: 2, c: 1, h: 2, w: 2 };

const step = (index: number, extra: Partial<StepValues> = {}): StepValues => ({
  index,
  timestep: 100 - index,
  noiseLevel: 0.5,
  x0: new Float32Array(8).fill(-1 + index / 10),
  xt: new Float32Array(8).fill(1),
  eps: Float32Array.of(3, 4, 0, 0, 0, 0, 1, 0),
  logProbs: Float32Array.of(-1, -2, -3, -4),
  gradient: Float32Array.of(0, 0.5, 0, 0, 2, -4, 0, 0),
  ...extra,
});

test('norms and log-probabilities are those of each image', () => {
  const history = new History(shape, [1, 0], 4);
  history.record(step(0));
  history.record(step(1, { logProbs: null, gradient: null }));
  expect(history.normSeries('score', 0)).toEqual([10, 10]); // 5 / 0.5
  expect(history.normSeries('score', 1)).toEqual([2, 2]);
  expect(history.normSeries('gradient', 1)[0]).toBeCloseTo(Math.sqrt(20), 12);
  expect(history.normSeries('gradient', 1)[1]).toBeNaN();
  expect(history.logProb(0, 0)).toBe(-2);
  expect(history.logProb(0, 1)).toBe(-3);
  expect(history.classProbs(1, 1)).toBeNull();
  expect([...history.classProbs(1, 1, false)!], 'as last known').toEqual([-3, -4]);
  history.judge(1, Float32Array.of(-5, -6, -7, -8), new Float32Array(8).fill(1));
  expect(history.logProb(1, 0)).toBe(-6);
  expect(history.frameAt(2)!.heat, 'a late judgement gives the heat map too').toEqual(new Int8Array(8).fill(127));
});

test('a step may be judged before its images are there', () => {
  const history = new History(shape, [0, 0], 4);
  history.record(step(0, { logProbs: null, gradient: null }));
  history.judge(1, Float32Array.of(-1, -2, -3, -4), new Float32Array(8).fill(-1));
  history.record(step(1, { logProbs: null, gradient: null }));
  expect(history.frameAt(1)!.heat).toBeNull();
  expect(history.frameAt(2)!.heat).toEqual(new Int8Array(8).fill(-127));
  expect(history.logProb(1, 0)).toBe(-1);
});

test('the last step shows the result', () => {
  const history = new History(shape, [0, 0], 2);
  history.record(step(0));
  history.record(step(1));
  expect([...history.frameAt(1)!.x0]).toEqual(Array(8).fill(0));
  expect([...history.frameAt(2)!.x0]).toEqual(Array(8).fill(255));
  expect(history.frameAt(0)).toBeNull();
});

test('images beyond the budget are thinned, figures are not', () => {
  const history = new History(shape, [0, 0], 20, 8 * 3 * 6); // room for six frames
  for (let i = 0; i < 20; i++) history.record(step(i));
  const kept = history.frames().map(({ index }) => index);
  expect(kept.length).toBeLessThanOrEqual(7);
  expect(kept.at(-1), 'the last one stays').toBe(19);
  expect(kept[0]).toBe(0);
  expect(history.frameAt(10)!.index).toBeLessThanOrEqual(9);
  expect(history.normSeries('score', 0).length).toBe(20);
});

test('heat is scaled to each image’s own largest value, and colours are added up', () => {
  expect([...heatOf(Float32Array.of(0, 1, -2, 0, 0, 0, 0, 0), shape)]).toEqual([0, 64, -127, 0, 0, 0, 0, 0]);
  expect([...heatOf(Float32Array.of(1, 0, 1, 1), { n: 1, c: 2, h: 1, w: 2 })]).toEqual([127, 64]);
});
