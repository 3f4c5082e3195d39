/** @file How things are timed, checked against a clock that is known. */
import { expect, test } from 'vitest';
import { measure, roundOrder, summary } from '../../src/runtime/measure.ts';

test('the order turns round on alternate rounds', () => {
  expect(roundOrder(3, 0)).toEqual([0, 1, 2]);
  expect(roundOrder(3, 1)).toEqual([2, 1, 0]);
});

test('median and half the distance between the quartiles', () => {
  expect(summary([5, 1, 3, 2, 4])).toEqual({ ms: 3, least: 1, spread: 1 / 3 });
  expect(summary([2, 4])).toEqual({ ms: 3, least: 2, spread: 0.5 / 3 });
});

test('batches reach 20 ms, variants take turns, and the time is that of one repetition', async () => {
  const log: string[] = [];
  const cost: Record<string, number> = { fast: 0.01, slow: 30 };
  const clock = {
    time: async ({ name }: { name?: string }, repeats: number) => {
      log.push(`${name} ${repeats}`);
      return cost[name!]! * repeats;
    },
  };
  const task = (name: string) => ({ name, encode: () => {} });
  const [fast, slow] = await measure(clock as never, [task('fast'), task('slow')], { rounds: 4 });
  expect(fast!.ms).toBeCloseTo(0.01, 10);
  expect(slow!.ms).toBe(30);
  expect(fast!.repeats * 0.01).toBeGreaterThanOrEqual(20);
  expect(slow!.repeats).toBe(1);
  const batches = log.slice(-8).map((line) => line.split(' ')[0]);
  expect(batches).toEqual(['fast', 'slow', 'slow', 'fast', 'fast', 'slow', 'slow', 'fast']);
});

test('it stops when told to', async () => {
  const controller = new AbortController();
  let batches = 0;
  const clock = {
    time: async () => {
      if (++batches === 4) controller.abort();
      return 25;
    },
  };
  const task = { name: 'a', encode: () => {} };
  await expect(measure(clock, [task], { rounds: 100, signal: controller.signal })).rejects.toThrow('aborted');
  expect(batches).toBe(4);
});

test('a GPU at rest is kept busy first, and none of that is counted', async () => {
  let at = 0;
  const before = performance.now();
  const clock = {
    time: async (_: unknown, repeats: number) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      at = performance.now() - before;
      return (at < 60 ? 5 : 1) * repeats; // five times too slow until the clock is raised
    },
  };
  const task = { name: 'a', encode: () => {} };
  expect((await measure(clock, [task], { rounds: 3, batchMs: 2, wakeMs: 80 }))[0]!.ms).toBe(1);
  expect(at).toBeGreaterThanOrEqual(80);
});
