import { describe, expect, test } from 'vitest';
import { deviate, gaussianNoise, philox, quantileTable, STREAM, seedWords } from '../../src/diffusion/noise.ts';
import { gaussianNoise as noiseOperation } from '../../src/diffusion/step_operations.ts';
import { Graph } from '../../src/runtime/graph.ts';
import { Plan } from '../../src/runtime/plan.ts';
import type { Shape } from '../../src/runtime/resources.ts';
import { testRuntime } from '../device.ts';

const runtime = await testRuntime();

describe('philox4x32-10', () => {
  // The known answers that its authors publish with Random123.
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)('counter %j', (counter, key, expected) => expect(philox(counter, key)).toEqual(expected));
});

describe('deviates', () => {
  test('the table falls, from 6.17 to 0, and its products fit 32 bits', () => {
    const table = quantileTable();
    expect(table.length).toBe(31 * 64 + 1);
    expect(table[0]! / 2 ** 26).toBeCloseTo(6.1664295, 6); // tail probability 1.5 * 2^-32
    expect(table.at(-1)! / 2 ** 26).toBeLessThan(1e-8);
    for (let i = 1; i < table.length; i++) {
      const drop = table[i - 1]! - table[i]!;
      expect(drop).toBeGreaterThan(0);
      expect(drop).toBeLessThan(2 ** 20);
    }
  });

  test('known quantiles of the normal distribution', () => {
    const word = (tail: number) => Math.round(tail * 2 ** 32);
    for (const [tail, z] of [
      [0.25, 0.6744897501960817],
      [0.15865525393145707, 1],
      [0.022750131948179195, 2],
      [0.0013498980316300933, 3],
      [3.167124183311986e-5, 4],
      [2.866515718791933e-7, 5],
    ] as const) {
      // Magnitudes are tail probabilities: the smaller the word, the farther out.
      expect(deviate(word(tail))).toBeCloseTo(z, 3.9);
      expect(deviate((word(tail) | 0x80000000) >>> 0)).toBe(-deviate(word(tail)));
    }
    expect(deviate(0)).toBe(deviate(1));
    expect(deviate(0x7fffffff)).toBeLessThan(1e-5);
  });

  test('moments, tails and the distribution itself over 400 000 deviates', () => {
    const data = gaussianNoise(
      { seed: 12345, firstImage: 0, step: 3, stream: STREAM.step },
      { n: 4, c: 4, h: 158, w: 158 },
    );
    const n = data.length;
    const moment = (k: number) => data.reduce((sum, z) => sum + z ** k, 0) / n;
    // Five standard errors each.
    expect(Math.abs(moment(1))).toBeLessThan(5 / Math.sqrt(n));
    expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(moment(3))).toBeLessThan(5 * Math.sqrt(15 / n));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
    for (const [z, tail] of [
      [0.5, 0.3085375387],
      [1, 0.1586552539],
      [2, 0.0227501319],
      [3, 0.001349898],
    ] as const) {
      const found = data.reduce((count, value) => count + (value > z ? 1 : 0), 0) / n;
      expect(Math.abs(found - tail)).toBeLessThan(5 * Math.sqrt((tail * (1 - tail)) / n));
    }
    let product = 0;
    for (let i = 1; i < n; i++) product += data[i]! * data[i - 1]!;
    expect(Math.abs(product / n)).toBeLessThan(5 / Math.sqrt(n));
  });
});

describe('on the GPU', () => {
  async function onDevice(shape: Shape, seed: number, firstImage: number, step: number): Promise<Float32Array> {
    const graph = new Graph(runtime.target);
    const noise = graph.activation('noise', shape);
    const address = noiseOperation(graph, noise);
    const plan = await Plan.create(runtime, graph, [noise]);
    const [low, high] = seedWords(seed);
    plan.set(address, { seed_low: low, seed_high: high, first_image: firstImage, step, stream: STREAM.step });
    await plan.run();
    const data = await plan.read(noise);
    plan.dispose();
    return data;
  }

  test.each([
    [{ n: 3, c: 1, h: 28, w: 28 }, 0, 0, 0],
    [{ n: 2, c: 3, h: 7, w: 5 }, 2 ** 53 - 1, 17, 999],
    [{ n: 1, c: 5, h: 33, w: 3 }, 2 ** 32 + 5, 1e6, 24],
  ])('%j: the same bits as on the CPU', async (shape, seed, firstImage, step) => {
    const found = await onDevice(shape, seed, firstImage, step);
    const expected = gaussianNoise({ seed, firstImage, step, stream: STREAM.step }, shape);
    expect(new Uint32Array(found.buffer)).toEqual(new Uint32Array(expected.buffer));
  });

  test('a picture’s noise does not depend on its batch; another seed, step or picture changes it', async () => {
    const shape = { n: 1, c: 3, h: 4, w: 4 };
    const batch = await onDevice({ ...shape, n: 5 }, 7, 0, 2);
    expect(await onDevice(shape, 7, 3, 2)).toEqual(batch.slice(3 * 48, 4 * 48));
    for (const [seed, image, step] of [
      [8, 3, 2],
      [7, 4, 2],
      [7, 3, 1],
    ] as const) {
      expect(await onDevice(shape, seed, image, step)).not.toEqual(batch.slice(3 * 48, 4 * 48));
    }
  });
});

test('seeds that are no whole number from 0 to 2^53 - 1 are refused', () => {
  for (const seed of [-1, 0.5, 2 ** 53, Number.NaN]) expect(() => seedWords(seed)).toThrow('a seed is an integer');
  expect(seedWords(2 ** 53 - 1)).toEqual([0xffffffff, 0x1fffff]);
});
