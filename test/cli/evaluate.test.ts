/** @file `evaluate` as a user runs it: measures, stops, goes on, and writes its document. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ModelConfig } from '../../src/checkpoints/config.ts';
import { randomFile, TINY_CONFIGS, UNET_FILE } from '../models.ts';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'pilotwave-evaluate-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);

function evaluate(...argv: string[]) {
  const adapter = process.env['PILOTWAVE_ADAPTER'];
  const options = [cli, 'evaluate', ...argv, ...(adapter ? ['--adapter', adapter] : [])];
  return spawnSync(process.execPath, options, { cwd: folder, encoding: 'utf8' });
}

/** Random models of the judge's size: what they make does not matter here. */
const RANDOM = ['--model', 'random-unet.safetensors', '--classifier', 'random-classifier.safetensors'];
beforeAll(() => {
  const [unet, classifier] = TINY_CONFIGS.map(
    (config) => ({ ...config, model: { ...config.model, image_size: 28 } }) as ModelConfig,
  );
  writeFileSync(place('random-unet.safetensors'), randomFile(unet!));
  writeFileSync(place('random-classifier.safetensors'), randomFile(classifier!));
});

const SHORT = [...RANDOM, '--sweep', 'scale', '--sampler', 'ddpm', '--scales', '0,4', '--steps', '2'];
const chunks = () =>
  (JSON.parse(readFileSync(place('out/evaluation.json'), 'utf8')).chunks as { setting: string; seed: number }[]).map(
    ({ setting, seed }) => `${setting} #${seed}`,
  );

test('measures in turns, stops at its time, goes on, and reports', () => {
  const first = evaluate(...SHORT, '--seeds', '1', '--minutes', '0');
  expect(first.status, first.stderr).toBe(0);
  expect(first.stderr).toContain('3 are left, ddpm null sigma 4 with seed 0 next');
  expect(chunks()).toEqual(['ddpm null none 0 #0']);

  const second = evaluate(...SHORT, '--seeds', '1');
  expect(second.status, second.stderr).toBe(0);
  expect(chunks()).toEqual([
    'ddpm null none 0 #0',
    'ddpm null sigma 4 #0',
    'ddpm class none 0 #0',
    'ddpm class sigma 4 #0',
  ]);
  expect(second.stdout.trim().split('\n')).toEqual(['out/evaluation.json', 'docs/guidance.md', 'docs/guidance.svg']);
  const document = readFileSync(place('docs/guidance.md'), 'utf8');
  expect(document).toMatch(/\| class \| 4 \| 20 \| -?\d+\.\d \|/);
  expect(document).toMatch(/\| real pictures \| {2}\| 20 \| -?\d+\.\d ± \d/);
  expect(readFileSync(place('docs/guidance.svg'), 'utf8')).toContain('DDPM: kernel distance by class');

  const { chunks: stored } = JSON.parse(readFileSync(place('out/evaluation.json'), 'utf8'));
  const features = (i: number): number[] => stored[i].features.data;
  expect(features(0).length).toBe(20 * 64);
  expect(features(1), 'guidance changes the pictures').not.toEqual(features(0));
  expect(features(3), 'so does the class').not.toEqual(features(1));

  writeFileSync(place('docs/guidance.md'), `Words before.\n\n${document}\nWords after.\n`);
  const again = evaluate(...RANDOM, '--sweep', 'none', '--steps', '2');
  expect(again.status, again.stderr).toBe(0);
  expect(readFileSync(place('docs/guidance.md'), 'utf8')).toBe(`Words before.\n\n${document}\nWords after.\n`);
});

test.each<[string[], string]>([
  [['now'], 'evaluate takes options only, found "now"'],
  [['--sweep', 'all'], '--sweep should be scale, form, both or none, found "all"'],
  [['--sampler', 'heun'], '--sampler should be ddim, ddpm or both, found "heun"'],
  [['--scales', '0,strong'], '--scales should be a number from 0 on, found "strong"'],
  [['--seeds', '0'], '--seeds should be a whole number from 1 to 100000, found "0"'],
  [
    ['--pictures', '15', '--results', 'other.json'],
    '--pictures should be a multiple of the 10 classes, twice or more, found 15',
  ],
  [['--judge', UNET_FILE, '--results', 'other.json'], '--judge needs a classifier, this checkpoint is none'],
  [['--real', UNET_FILE, '--steps', '2'], 'should hold features [N, F]'],
  [['--sweep', 'none', '--results', 'other.json'], 'nothing is measured yet in other.json'],
  [['--sweep', 'none'], 'out/evaluation.json was made with respacing'],
])('%j: one line, exit 2, nothing written', (argv, message) => {
  const { status, stdout, stderr } = evaluate(...RANDOM, ...argv);
  const lines = stderr
    .trim()
    .split('\n')
    .filter((line) => !/^(Adapter|This is a software|Warning)/.test(line));
  expect(lines.length, stderr).toBe(1);
  expect(lines[0]).toContain(message);
  expect(stdout).toBe('');
  expect(status).toBe(2);
  expect(existsSync(place('other.json'))).toBe(false);
});
