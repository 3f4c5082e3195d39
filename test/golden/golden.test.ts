/** @file A selection of cases recorded from guided-diffusion, run as `verify` runs them. */
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { compare, type TensorReport } from '../../src/cli/verify/compare.ts';
import { type GoldenCase, GoldenFolder } from '../../src/cli/verify/manifest.ts';
import { runCase } from '../../src/cli/verify/verify.ts';
import type { Runtime } from '../../src/runtime/device.ts';
import { testRuntime } from '../device.ts';

const runtime = await testRuntime();
const asGpu = await testRuntime({}, { as: 'gpu' });
const folder = new GoldenFolder(fileURLToPath(new URL('.', import.meta.url)));

/**
 * Relative errors allowed where PILOTWAVE_VARIANTS forces float16 arithmetic: that of single operations, which their shader
 * states, and that of whole networks and trajectories, whose gradients lose most.
 */
const F16_TOLERANCE = { operation: 2e-3, network: 5e-2 };
const halves = /=\s*f16\b/.test(process.env['PILOTWAVE_VARIANTS'] ?? '');

async function expectRight(on: Runtime, golden: GoldenCase): Promise<void> {
  const tolerance = halves ? F16_TOLERANCE[golden.kind.startsWith('op.') ? 'operation' : 'network'] : 0;
  const report = await runCase(on, folder, golden, tolerance);
  const states = (list: Readonly<Record<string, TensorReport>>) =>
    Object.fromEntries(Object.entries(list).map(([name, { status }]) => [name, status]));
  // Parameter gradients belong to training, which is not there yet: they must say so, and all others must be right.
  const wanted = Object.fromEntries(
    Object.keys(report.tensors).map((name) => [name, /^grad(\.|_norms)/.test(name) ? 'unsupported' : 'ok']),
  );
  expect(states(report.tensors), report.message).toEqual(wanted);
  expect(Object.keys(report.tensors).length > 0 || golden.raises !== undefined).toBe(true);
}

test.each(folder.cases.map((golden) => [golden.id, golden] as const))('%s', (_id, golden) =>
  expectRight(runtime, golden),
);

const NETWORKS = /^(block\.|unet|superres|classifier|trajectory)/;
test.each(folder.cases.filter(({ kind }) => NETWORKS.test(kind)).map((golden) => [golden.id, golden] as const))(
  '%s with the variants that a GPU gets',
  async (_id, golden) => {
    expect(asGpu.target.adapter).toBe('gpu');
    await expectRight(asGpu, golden);
  },
);

describe('the comparison itself', () => {
  const spec = { dtype: 'F32', shape: [2, 2], tol_rel_l2: 1e-3, tol_max_abs: 0.1 };

  test('accepts what is within both tolerances', () => {
    expect(compare([1, 2, 3, 4.001], [1, 2, 3, 4], spec)).toMatchObject({ status: 'ok' });
  });

  test.each([
    ['a large relative error', [1, 2, 3, 4.05], {}],
    ['a large single error', [1, 2, 3, 4.05], { tol_rel_l2: 1, tol_max_abs: 0.01 }],
    ['NaN', [1, 2, Number.NaN, 4], {}],
    ['infinity', [1, 2, Number.POSITIVE_INFINITY, 4], {}],
    ['another length', [1, 2, 3], {}],
    ['a difference where equality is asked for', [1, 2, 3, 4.00001], { exact: true }],
    ['one element off, element by element', [1.001, 2, 3, 4], { tol_rel: 1e-4 }],
  ])('refuses %s', (_what, found, more) => {
    expect(compare(found, [1, 2, 3, 4], { ...spec, ...more })).toMatchObject({ status: 'fail' });
  });

  test('with per_step the worst step counts', () => {
    const found = [100, 100, 0.101, 0.1];
    const expected = [100, 100, 0.1, 0.1];
    expect(compare(found, expected, spec)).toMatchObject({ status: 'ok' });
    expect(compare(found, expected, { ...spec, per_step: true })).toMatchObject({ status: 'fail' });
  });

  test('a reference that is zero in exact arithmetic is held to the absolute tolerance alone', () => {
    const zero = { ...spec, zero_in_exact_arithmetic: true, tol_max_abs: 1e-6 };
    expect(compare([1e-9, 0, 0, 0], [1e-12, 0, 0, 0], zero)).toMatchObject({ status: 'ok' });
    expect(compare([1e-3, 0, 0, 0], [1e-12, 0, 0, 0], zero)).toMatchObject({ status: 'fail' });
  });
});
