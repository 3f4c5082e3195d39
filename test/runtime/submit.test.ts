import { describe, expect, test } from 'vitest';
import { SLICE_MS, SlicePlan, SubmitPacer } from '../../src/runtime/submit.ts';

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

describe('the pacer', () => {
  /** A device whose work is done at once, and which counts who asks for that. */
  function countingDevice() {
    const counts = { submits: 0, asked: 0 };
    const pass = { end: () => {} };
    const device = {
      createCommandEncoder: () => ({ beginComputePass: () => pass, finish: () => ({}) }),
      queue: {
        submit: () => counts.submits++,
        onSubmittedWorkDone: async () => {
          counts.asked++;
        },
      },
    };
    return { counts, device: device as unknown as GPUDevice };
  }

  test('waits for short submits together, for long ones one by one', async () => {
    const { counts, device } = countingDevice();
    const pacer = new SubmitPacer(device);
    const short = new SlicePlan([{ flops: 1, bytes: 1 }]);
    short.record(0, 1, 1);
    for (let i = 0; i < 100; i++) await pacer.run(short, () => {});
    expect(counts.submits).toBe(100);
    expect(counts.asked).toBeGreaterThanOrEqual(4);
    expect(counts.asked).toBeLessThanOrEqual(25);

    const before = counts.asked;
    const long = new SlicePlan([{ flops: 1, bytes: 1 }]);
    for (let i = 0; i < 5; i++) {
      long.record(0, 1, 50);
      await pacer.run(long, () => {});
    }
    expect(counts.asked - before).toBe(5);
  });

  test('is idle only when the queue says so', async () => {
    const { counts, device } = countingDevice();
    const pacer = new SubmitPacer(device);
    const short = new SlicePlan([{ flops: 1, bytes: 1 }]);
    short.record(0, 1, 1);
    await pacer.run(short, () => {});
    expect(counts.asked).toBe(0);
    await pacer.idle();
    expect(counts.asked).toBe(1);
  });
});
