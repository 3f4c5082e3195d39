import { describe, expect, test } from 'vitest';
import { SLICE_MS, SlicePlan } from '../../src/runtime/submit.ts';

const cost = { flops: 1e5, bytes: 0 };

describe('slices', () => {
  test('a list that is measured fast becomes one slice', () => {
    const slices = new SlicePlan(Array.from({ length: 100 }, () => cost));
    slices.record(0, 100, 12);
    expect(slices.cut()).toEqual([100]);
    expect(slices.runMs).toBeCloseTo(12);
  });

  test('a list that is measured slow is cut into slices of equal time', () => {
    const slices = new SlicePlan(Array.from({ length: 100 }, () => cost));
    slices.record(0, 100, 6 * SLICE_MS);
    expect(slices.cut()).toEqual([17, 33, 50, 67, 83, 100]);
  });

  test('a slow part gets its own slices', () => {
    const slices = new SlicePlan(Array.from({ length: 10 }, () => cost));
    slices.record(0, 9, 10);
    slices.record(9, 10, 2 * SLICE_MS);
    expect(slices.cut()).toEqual([9, 10]);
  });

  test('before a measurement the guess is careful, and every dispatch is in some slice', () => {
    const slices = new SlicePlan(Array.from({ length: 50 }, () => ({ flops: 1e8, bytes: 1e6 })));
    expect(slices.runMs).toBeNull();
    const ends = slices.cut();
    expect(ends.length).toBeGreaterThan(10);
    expect(ends.at(-1)).toBe(50);
    expect(ends).toEqual([...new Set(ends)].sort((a, b) => a - b));
  });
});
