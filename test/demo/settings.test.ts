/** @file Settings to an address and back. */
import { expect, test } from 'vitest';
import {
  DEFAULTS,
  labelsOf,
  readQuery,
  respacingOf,
  type Settings,
  samePictures,
  slug,
  writeQuery,
} from '../../demo/settings.ts';
import { spaceTimesteps } from '../../src/diffusion/respacing.ts';

const NAMES = ['T-shirt/top', 'Trouser', 'Ankle boot'];

test('an address says all settings, and is read back as they were', () => {
  const settings: Settings = {
    model: 'fashion-mnist',
    classes: [0, 2],
    guidance: 'free',
    scale: 2.5,
    freeScale: 7,
    sampler: 'ddpm',
    steps: 40,
    eta: 0.3,
    count: 6,
    seed: 2 ** 53 - 1,
    keepSeed: true,
    view: 'xt',
    heat: true,
    files: ['a b.safetensors', 'ü&.pt'],
  };
  const query = writeQuery(settings, NAMES);
  expect(query).toContain('class=t-shirt-top,ankle-boot');
  expect(readQuery(query, NAMES)).toEqual(settings);
  expect(readQuery(writeQuery(DEFAULTS, NAMES), NAMES)).toEqual(DEFAULTS);
});

test('what an address says wrongly has its default or the nearest limit', () => {
  const found = readQuery('?scale=99&steps=-3&count=x&seed=1.5&sampler=euler&class=boot,99&eta=', NAMES);
  expect(found).toEqual({ ...DEFAULTS, scale: 16, steps: 1 });
  expect(readQuery('?class=2,trouser,2', NAMES).classes).toEqual([1, 2]);
  expect(readQuery('?class=0,1,2', NAMES).classes, 'all of them is all').toBeNull();
});

test('classes repeat in turn', () => {
  expect(labelsOf({ classes: [4, 7], count: 5 }, 10)).toEqual([4, 7, 4, 7, 4]);
  expect(labelsOf({ classes: null, count: 4 }, 3)).toEqual([0, 1, 2, 0]);
});

test('every number of steps gives that many timesteps', () => {
  for (const steps of [1, 2, 7, 25, 33, 50, 999, 1000]) {
    for (const sampler of ['ddim', 'ddpm', 'dpm', 'heun'] as const) {
      expect(spaceTimesteps(1000, respacingOf(sampler, steps, 1000)).length, `${sampler} ${steps}`).toBe(steps);
    }
  }
  expect(respacingOf('ddim', 25, 1000), 'the original’s own timesteps where it has them').toBe('ddim25');
});

test('what only changes the view restarts nothing', () => {
  expect(samePictures(DEFAULTS, { ...DEFAULTS, view: 'xt', heat: true, keepSeed: true, freeScale: 9 })).toBe(true);
  expect(samePictures(DEFAULTS, { ...DEFAULTS, scale: 5 })).toBe(false);
  const unguided = { ...DEFAULTS, guidance: 'none' as const };
  expect(samePictures(unguided, { ...unguided, scale: 5 })).toBe(true);
  const ddpm = { ...DEFAULTS, sampler: 'ddpm' as const };
  expect(samePictures(ddpm, { ...ddpm, eta: 1 })).toBe(true);
});

test('a slug is what an address can show', () => {
  expect(slug('T-shirt/top')).toBe('t-shirt-top');
  expect(slug(' Ärmel 2! ')).toBe('ärmel-2');
});
