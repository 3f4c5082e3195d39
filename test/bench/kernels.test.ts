/** @file The benchmark's references agree with the tests' own, and its cases with the kernels. */
import { afterAll, expect, test } from 'vitest';
import { benchCase, kernelCases, SHIPPED_MODELS } from '../../bench/kernels.ts';
import { decodeResult, encodeResult } from '../../bench/page/link.ts';
import {
  attentionHead,
  convolution,
  convolutionGradient,
  groupNormSilu,
  places,
  relativeError,
} from '../../bench/reference.ts';
import { type BenchResult, isFigure, parseResult } from '../../bench/results.ts';
import { Collected, runBench } from '../../bench/run.ts';
import { peakLines, rowLines } from '../../bench/tables.ts';
import { Clock } from '../../src/runtime/measure.ts';
import { testRuntime, values } from '../device.ts';
import * as plain from '../reference/operations.ts';

const at = (data: ArrayLike<number>, list: readonly number[]) => list.map((i) => data[i]!);
const expectNear = (found: readonly number[], expected: readonly number[]) =>
  found.forEach((v, i) => {
    expect(v).toBeCloseTo(expected[i]!, 9);
  });

test('places are spread over all of a result', () => {
  const list = places(1000, 50);
  expect(list.length).toBe(50);
  expect(list.at(-1)).toBe(999);
  expect(new Set(list).size).toBeGreaterThan(45);
  expect(Math.max(...list.map((v, i) => Math.abs(v - i * 20)))).toBeLessThanOrEqual(20);
  expect(new Set(list.map((v) => v % 20)).size, 'not all in one column').toBeGreaterThan(5);
});

test('convolution and its gradient', () => {
  const shape = { n: 2, c: 3, h: 5, w: 4 };
  for (const stride of [1, 2]) {
    const spec = { out: 6, k: 3, stride };
    const [x, w, b] = [values(120, 1), values(6 * 27, 2), values(6, 3)];
    const whole = plain.conv2d(x, shape, w, b, 6, 3, stride);
    const found = convolution(x, shape, w, b, spec, 40);
    expectNear([...found.values], at(whole.data, found.at));
    const dy = values(whole.data.length, 4);
    const gradient = convolutionGradient(dy, shape, w, spec, 50);
    expectNear([...gradient.values], at(plain.conv2dGradient(dy, whole.shape, w, shape, 3, stride), gradient.at));
  }
});

test('group norm with SiLU, and attention, and their gradients', () => {
  const shape = { n: 2, c: 4, h: 3, w: 2 };
  const [x, dy] = [values(48, 5), values(48, 6)];
  const options = { groups: 2, eps: 1e-5, gamma: values(4, 7), beta: values(4, 8) };
  const norm = (v: plain.Values) => plain.groupNorm(v, shape, { ...options, silu: true });
  const found = groupNormSilu(x, dy, shape, options, 4);
  expectNear([...found.forward.values], at(norm(x), found.forward.at));
  const slopes = plain.centralDifferences(norm, x, dy);
  found.gradient.values.forEach((v, i) => {
    expect(v).toBeCloseTo(slopes[found.gradient.at[i]!]!, 6);
  });

  const [tokens, width] = [5, 3];
  const qkv = values(3 * width * tokens, 9);
  const dOut = values(width * tokens, 10);
  const part = (v: plain.Values, k: number) => Array.from(v).slice(k * width * tokens, (k + 1) * width * tokens);
  const run = (v: plain.Values) => plain.attention(part(v, 0), part(v, 1), part(v, 2), 1, 1, width, tokens);
  const head = attentionHead(qkv, dOut, { tokens, width });
  expectNear([...head.forward.values], [...run(qkv)]);
  const differences = plain.centralDifferences(run, qkv, dOut);
  head.gradient.values.forEach((v, i) => {
    expect(v).toBeCloseTo(differences[i]!, 6);
  });
});

const runtime = await testRuntime();
const clock = new Clock(runtime.device);
afterAll(() => clock.dispose());
const peak = { flops: 1e10, bandwidth: 1e9, launchMs: 0.01, copyBytes: 2 ** 20 };
const quick = { batchMs: 1, rounds: 2 };
const caseOf = (family: string) => {
  const found = kernelCases()
    .filter((k) => k.family === family && k.models === SHIPPED_MODELS)
    .at(-1);
  if (!found) throw new Error(`no case of ${family}`);
  return found;
};

test.each(['Convolution 3×3', 'Convolution 1×1', 'GroupNorm + SiLU', 'Attention', 'Resampling'])(
  '%s: every variant is right and has a time, one is the adapter’s own',
  async (family) => {
    runtime.placeholder('read', 0); // made once for all
    const before = runtime.buffers.liveBytes;
    const rows = await benchCase(runtime, clock, peak, caseOf(family), quick);
    expect(rows.filter(({ chosen }) => chosen).length).toBe(1);
    for (const row of rows) {
      for (const direction of ['forward', 'gradient'] as const) {
        const figure = row[direction];
        expect(isFigure(figure), `${row.variant} ${direction}: error ${figure.error}`).toBe(true);
        if (isFigure(figure)) expect(figure.ms).toBeGreaterThan(0);
      }
      expect(row.reason === '', 'losers say why they stay').toBe(row.chosen);
    }
    expect(runtime.buffers.liveBytes).toBe(before);
  },
);

test('a wrong kernel is not timed', async () => {
  const right = caseOf('Resampling');
  const broken = {
    ...right,
    expect: (x: Float32Array, dy: Float32Array) => {
      const { forward, gradient } = right.expect(x, dy);
      return { forward: { ...forward, values: forward.values.map((v) => v * 1.001) }, gradient };
    },
  };
  const [row] = await benchCase(runtime, clock, peak, broken, quick);
  expect(isFigure(row!.forward)).toBe(false);
  expect(row!.forward.error).toBeGreaterThan(9e-4);
  expect(isFigure(row!.gradient)).toBe(true);
  expect(rowLines([row!], true).at(-1)).toMatch(/wrong .* 1\.0e-3/);
});

test('a run is a stream of results; they can be kept, linked and read again', async () => {
  const collected = new Collected();
  const kinds: string[] = [];
  const selection = { family: 'Resampling', models: SHIPPED_MODELS };
  for await (const event of runBench(runtime, null, { selection, ...quick })) {
    collected.take(event);
    kinds.push(event.kind);
  }
  expect(kinds).toEqual(['progress', 'peak', 'progress', 'rows', 'progress']);
  const result = collected.result(runtime, 'a test')!;
  expect(result.peak.flops).toBeGreaterThan(1e8);
  expect(result.peak.bandwidth).toBeGreaterThan(1e8);
  expect(parseResult(JSON.stringify(result))).toEqual(JSON.parse(JSON.stringify(result)));
  const linked: BenchResult = await decodeResult(await encodeResult(result));
  expect(linked.rows.map(({ variant }) => variant)).toEqual(result.rows.map(({ variant }) => variant));
  expect(linked.peak.flops / result.peak.flops).toBeCloseTo(1, 3);
  expect(peakLines(result).join()).toMatch(/FMA peak .*FLOP\/s, copy .*B\/s/);
  expect(() => parseResult('{}')).toThrow('expected "format"');
  expect(() => parseResult('no')).toThrow('not JSON');
});

test('errors are relative to the reference', () => {
  expect(relativeError([0, 3.003, 4.004], { at: [1, 2], values: [3, 4] })).toBeCloseTo(1e-3, 10);
});
