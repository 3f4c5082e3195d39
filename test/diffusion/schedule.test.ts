import { describe, expect, test } from 'vitest';
import { cosine } from '../../src/diffusion/cosine.ts';
import {
  createDiffusion,
  modelTimestep,
  startCoefficients,
  varianceCoefficients,
} from '../../src/diffusion/gaussian_diffusion.ts';
import { roundHalfToEven, spaceTimesteps } from '../../src/diffusion/respacing.ts';
import { betaSchedule } from '../../src/diffusion/schedule.ts';

const linear = {
  steps: 1000,
  noise_schedule: 'linear',
  var_type: 'learned_range',
  mean_type: 'epsilon',
  rescale_timesteps: false,
} as const;

describe('betas', () => {
  test('linear: from 1e-4 to 0.02 at 1000 steps, scaled elsewhere', () => {
    const betas = betaSchedule('linear', 1000);
    expect([betas[0], betas[999]]).toEqual([0.0001, 0.02]);
    expect(betas[1]! - betas[0]!).toBeCloseTo(0.0199 / 999, 15);
    expect(betaSchedule('linear', 100)[0]).toBeCloseTo(0.001, 15);
  });

  test('cosine: alpha bar follows the squared cosine, betas stay below 0.999', () => {
    const betas = betaSchedule('cosine', 1000);
    let product = 1;
    for (let t = 0; t < 500; t++) product *= 1 - betas[t]!;
    const f = (t: number) => Math.cos(((t + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
    expect(product).toBeCloseTo(f(0.5) / f(0), 12);
    expect(Math.max(...betas)).toBe(0.999);
  });

  test('cosine() agrees with known values to the last bit', () => {
    expect(cosine(0)).toBe(1);
    expect(cosine(1)).toBe(0.5403023058681398);
    expect(cosine(0.5)).toBe(0.8775825618903728);
    expect(cosine(Math.PI / 2) / 6.123233995736766e-17).toBeCloseTo(1, 14);
    expect(cosine(-1)).toBe(cosine(1));
  });

  test('no steps are refused', () => {
    expect(() => betaSchedule('linear', 0)).toThrow('positive integer, found 0');
  });
});

describe('respacing', () => {
  test.each([
    [1000, 'ddim25', 25, [0, 40, 80]],
    [1000, 'quad10', 10, [0, 12, 49]],
    [50, 'quad2', 2, [0, 49]],
    [1000, '25', 25, [0, 42, 83]],
    [300, '10,10,5', 25, [0, 11, 22]],
    [100, '1,1,3', 5, [0, 34, 67]],
    [10, '', 10, [0, 1, 2]],
    [1000, '1', 1, [0]],
  ])('%i timesteps as "%s"', (steps, respacing, length, first) => {
    const kept = spaceTimesteps(steps, respacing);
    expect(kept.length).toBe(length);
    expect(kept.slice(0, 3)).toEqual(first);
    expect(kept).toEqual([...new Set(kept)].sort((a, b) => a - b));
    expect(kept.at(-1)).toBeLessThan(steps);
  });

  test.each([
    ['ddim300', 'no whole stride'],
    ['quad300', 'no 300 different ones'],
    ['quad0', 'no 0 different ones'],
    ['1001', 'cannot give 1001'],
    ['600,600', 'cannot give 600'],
    ['ddim', 'should be'],
    ['10;5', 'should be'],
    ['-3', 'should be'],
    ['0', 'keeps no timestep'],
  ])('"%s" is refused', (respacing, message) => {
    expect(() => spaceTimesteps(1000, respacing)).toThrow(message);
  });

  test('halves round to the even neighbour', () => {
    expect([0.5, 1.5, 2.5, 2.4999, 3.5001].map(roundHalfToEven)).toEqual([0, 2, 2, 2, 4]);
  });
});

describe('the process', () => {
  test('respaced: alpha bar at the kept timesteps is that of the original', () => {
    const all = createDiffusion(linear);
    const some = createDiffusion(linear, 'ddim25');
    some.timestepMap.forEach((t, i) => {
      expect(some.alphas_cumprod[i]!).toBeCloseTo(all.alphas_cumprod[t]!, 14);
    });
    expect(some.posterior_variance[0]).toBe(0);
    expect(some.posterior_log_variance_clipped[0]).toBe(Math.log(some.posterior_variance[1]!));
  });

  test('the model is told the original timestep, rescaled where the process says so', () => {
    expect(modelTimestep(createDiffusion(linear, 'ddim25'), 3)).toBe(120);
    const rescaled = { ...linear, steps: 4000, noise_schedule: 'cosine', rescale_timesteps: true } as const;
    expect(modelTimestep(createDiffusion(rescaled, '10'), 9)).toBe(3999 / 4);
  });

  test('whatever the model predicts, the true x_0 comes out', () => {
    const t = 7;
    const [x0, eps] = [0.3, -1.2];
    for (const mean_type of ['epsilon', 'start_x', 'previous_x'] as const) {
      const process = createDiffusion({ ...linear, mean_type }, '20');
      const x = process.sqrt_alphas_cumprod[t]! * x0 + process.sqrt_one_minus_alphas_cumprod[t]! * eps;
      const posterior = process.posterior_mean_coef1[t]! * x0 + process.posterior_mean_coef2[t]! * x;
      const output = { epsilon: eps, start_x: x0, previous_x: posterior }[mean_type];
      const factors = startCoefficients(process, t);
      expect(factors.x * x + factors.output * output).toBeCloseTo(x0, 12);
    }
  });

  test('fixed variances at the first timestep', () => {
    const small = createDiffusion({ ...linear, var_type: 'fixed_small' }, '10');
    const large = createDiffusion({ ...linear, var_type: 'fixed_large' }, '10');
    expect(varianceCoefficients(small, 0).variance).toBe(0);
    expect(varianceCoefficients(small, 0).maxLog).toBe(Math.log(small.posterior_variance[1]!));
    expect(varianceCoefficients(large, 0).variance).toBe(large.posterior_variance[1]!);
    expect(varianceCoefficients(large, 5).variance).toBe(large.betas[5]!);
  });

  test('a single step has finite tables', () => {
    const one = createDiffusion({ ...linear, var_type: 'fixed_large' }, '1');
    expect(one.length).toBe(1);
    expect(Number.isFinite(one.posterior_log_variance_clipped[0]!)).toBe(true);
    expect(Number.isFinite(varianceCoefficients(one, 0).maxLog)).toBe(true);
  });
});
