/** @file The command line as a user runs it: the built dist/cli.js, in a process of its own. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { readSafetensors, toNumbers, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { expectClose } from '../device.ts';
import { CLASSIFIER_FILE, REFERENCE_FILE, UNET_FILE } from '../models.ts';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'pilotwave-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);

function pilotwave(...argv: string[]) {
  const adapter = process.env['PILOTWAVE_ADAPTER'];
  const chosen = adapter && !argv.includes('--adapter') && argv[0] === 'generate' ? ['--adapter', adapter] : [];
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...argv, ...chosen], {
    cwd: folder,
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

describe('generate', () => {
  test('from the recorded x_T makes the recorded pictures, a sheet, raw values and a report', () => {
    const reference = readSafetensors(readFileSync(REFERENCE_FILE)).tensors;
    const pictures = 2;
    const part = (name: string) => Float32Array.from(toNumbers(reference.get(name)!)).slice(0, pictures * 784);
    writeFileSync(
      place('noise.safetensors'),
      writeSafetensors({ x_T: { dtype: 'F32', shape: [pictures, 1, 28, 28], data: part('x_T') } }),
    );
    const { status, stdout, stderr } = pilotwave(
      ...['generate', '--noise', 'noise.safetensors', '--out', 'new/sheet.png', '--raw', 'raw.safetensors', '--json'],
    );
    expect(status, stderr).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ pictures: 2, steps: 25, files: ['new/sheet.png', 'raw.safetensors'] });
    expect(report.adapter.length).toBeGreaterThan(3);
    for (const key of ['seconds', 'secondsPerStep', 'peakBytes']) expect(report[key]).toBeGreaterThan(0);
    expect(stderr).toContain('Adapter: ');
    expect(stderr).toContain('25 of 25 steps');

    const { tensors, metadata } = readSafetensors(readFileSync(place('raw.safetensors')));
    expect(tensors.get('samples')).toMatchObject({ dtype: 'F32', shape: [2, 1, 28, 28] });
    expect([...toNumbers(tensors.get('labels')!)]).toEqual([0, 1]);
    expect(metadata.get('seed')).toBe('0');
    expect(metadata.get('adapter')).toBe(report.adapter);
    expect(JSON.parse(metadata.get('options')!)).toMatchObject({ guidance: 'classifier', scale: 4, sampler: 'ddim' });
    expectClose(toNumbers(tensors.get('samples')!), part('classifier_null_scale4'), 2e-5);
    expect(readFileSync(place('new/sheet.png')).subarray(1, 4).toString()).toBe('PNG');
  });

  test('does what its options say, and prints the path', () => {
    const { status, stdout } = pilotwave(
      ...[
        'generate',
        '--class',
        'sneaker,ankle-boot',
        '--class',
        '1',
        '--class',
        'null',
        '--count',
        '5',
        '--steps',
        '2',
      ],
      ...['--guidance', 'free', '--scale', '1.5', '--seed', '9', '--raw', 'some.safetensors'],
    );
    expect(status).toBe(0);
    expect(stdout.split('\n')[0]).toBe('out/ddim-2-free-scale1.5-seed9.png');
    expect(existsSync(place('out/ddim-2-free-scale1.5-seed9.png'))).toBe(true);
    const { tensors } = readSafetensors(readFileSync(place('some.safetensors')));
    expect([...toNumbers(tensors.get('labels')!)]).toEqual([7, 9, 1, 10, 7]);
  });

  test('ddpm, without guidance', () => {
    const { status, stderr } = pilotwave(
      ...[
        'generate',
        '--class',
        'bag',
        '--sampler',
        'ddpm',
        '--respacing',
        '2,1',
        '--guidance',
        'none',
        '--conditional',
        '--out',
        'bag.png',
      ],
    );
    expect(status, stderr).toBe(0);
  });
});

describe('bad input: one line that says what is wrong, exit 2, no file', () => {
  writeFileSync(place('truncated.safetensors'), readFileSync(UNET_FILE).subarray(0, 100_000));
  writeFileSync(
    place('foreign.safetensors'),
    writeSafetensors({ a: { dtype: 'F32', shape: [1], data: new Float32Array(1) } }),
  );
  writeFileSync(place('text.safetensors'), 'hello, I am no checkpoint');
  writeFileSync(
    place('small.safetensors'),
    writeSafetensors({ x_T: { dtype: 'F32', shape: [1, 3, 4, 4], data: new Float32Array(48) } }),
  );
  const before = readdirSync(folder).sort();

  test.each<[string[], string]>([
    [['generate', '--class', 'banana'], 'unknown class "banana"; known are T-shirt/top, Trouser'],
    [['generate', '--class', '10'], '--class should be from 0 to 9, found 10'],
    [['generate', '--clas', 'bag'], 'unknown option --clas; known are --class'],
    [['generate', 'bag'], 'generate takes options only, found "bag"'],
    [['generate', '--sampler', 'euler'], '--sampler should be ddim or ddpm, found "euler"'],
    [['generate', '--guidance', 'clip'], '--guidance should be classifier, free or none, found "clip"'],
    [['generate', '--scale', 'strong'], '--scale should be a number, found "strong"'],
    [['generate', '--scale', 'NaN'], '--scale should be a number, found "NaN"'],
    [['generate', '--count', '0'], '--count should be a whole number from 1 to 10000, found "0"'],
    [['generate', '--steps', '2.5'], '--steps should be a whole number from 1 on, found "2.5"'],
    [['generate', '--steps', '999'], 'no whole stride takes exactly 999 of 1000 timesteps'],
    [['generate', '--respacing', '10;5'], 'respacing should be "N", "a,b,c" or "ddimN", found "10;5"'],
    [['generate', '--seed', '-1'], '--seed should be a whole number from 0 on, found "-1"'],
    [['generate', '--eta', '1', '--sampler', 'ddpm'], '--eta is an option of ddim'],
    [
      ['generate', '--model', 'missing.safetensors'],
      'cannot read the checkpoint missing.safetensors: there is no such file',
    ],
    [['generate', '--model', '.'], 'cannot read the checkpoint .: it is a folder'],
    [['generate', '--model', 'truncated.safetensors'], 'truncated.safetensors: tensor'],
    [['generate', '--model', 'foreign.safetensors'], 'foreign.safetensors: this file does not describe its model'],
    [['generate', '--model', 'text.safetensors'], 'text.safetensors: not a safetensors file'],
    [['generate', '--model', CLASSIFIER_FILE], '--model needs a U-Net, this checkpoint is a classifier'],
    [['generate', '--classifier', UNET_FILE], '--classifier needs a classifier'],
    [['generate', '--noise', 'foreign.safetensors'], 'foreign.safetensors has no tensor x_T'],
    [
      ['generate', '--noise', 'small.safetensors'],
      'x_T in small.safetensors should be [N, 1, H, W], found [1, 3, 4, 4]',
    ],
    [['generate', '--noise', REFERENCE_FILE, '--count', '11'], 'holds x_T for 10 pictures, 11 are asked for'],
    [
      ['generate', '--out', 'text.safetensors/sheet.png'],
      'cannot write text.safetensors/sheet.png: a part of its path is a file',
    ],
    [['generate', '--out', 'sheet.jpg'], '--out should name a .png file, found "sheet.jpg"'],
    [['generate', '--raw', '.'], 'cannot write .: it is a folder'],
    [['generate', '--adapter', 'quantum'], 'looked for one named like "quantum", found'],
    [['verify'], 'verify takes one folder, found 0'],
    [['verify', 'nowhere'], 'expected a golden folder with a manifest.json, found none in nowhere'],
    [['paint'], 'unknown command "paint"; known are generate, bench, evaluate, verify'],
  ])('%j', (argv, message) => {
    const { status, stdout, stderr } = pilotwave(...argv);
    const lines = stderr
      .trim()
      .split('\n')
      .filter((line) => !/^(Adapter|This is a software|Warning)/.test(line));
    expect(lines.length, stderr).toBe(1);
    expect(lines[0]).toContain(message);
    expect(lines[0]).not.toMatch(/\bat .*:\d+:\d+/);
    expect(stdout).toBe('');
    expect(status).toBe(2);
    expect(
      readdirSync(folder)
        .sort()
        .filter(
          (name) =>
            !['out', 'new', 'raw.safetensors', 'noise.safetensors', 'some.safetensors', 'bag.png'].includes(name),
        ),
    ).toEqual(
      before.filter(
        (name) => !['out', 'new', 'raw.safetensors', 'noise.safetensors', 'some.safetensors', 'bag.png'].includes(name),
      ),
    );
  });
});

test('help is on standard output, and lists the commands and the options', () => {
  expect(pilotwave('--help').stdout).toContain('pilotwave generate [options]');
  const { status, stdout } = pilotwave('generate', '--help');
  expect(status).toBe(0);
  expect(stdout).toContain('--guidance KIND');
});
