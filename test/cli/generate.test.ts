/** @file The command line as a user runs it: the built dist/cli.js, in a process of its own. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readSafetensors, toNumbers, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { encodePng } from '../../src/cli/png.ts';
import { expectClose } from '../device.ts';
import { CLASSIFIER_FILE, REFERENCE_FILE, randomFile, TINY_CONFIGS, UNET_FILE } from '../models.ts';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'pilotwave-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);

function pilotwave(...argv: string[]) {
  const adapter = process.env['PILOTWAVE_ADAPTER'];
  const chosen =
    adapter && !argv.includes('--adapter') && ['generate', 'likelihood', 'invert', 'tune'].includes(argv[0]!)
      ? ['--adapter', adapter]
      : [];
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

describe('what else generate can do', () => {
  const samples = (name: string) =>
    Float32Array.from(toNumbers(readSafetensors(readFileSync(place(name))).tensors.get('samples')!));
  const make = (name: string, ...argv: string[]) => {
    const models = ['--model', 'tiny-unet.safetensors', ...(argv.includes('--guidance') ? [] : TINY_GUIDE)];
    const { status, stderr, stdout } = pilotwave(
      'generate',
      '--steps',
      '3',
      '--raw',
      name,
      '--json',
      ...models,
      ...argv,
    );
    expect(status, stderr).toBe(0);
    return { values: samples(name), report: JSON.parse(stdout) };
  };
  const TINY_GUIDE = ['--classifier', 'tiny-classifier.safetensors'];
  const one = ['--class', '8', '--seed', '5'];
  beforeAll(() => {
    const [unet, classifier] = TINY_CONFIGS;
    writeFileSync(place('tiny-unet.safetensors'), randomFile(unet));
    writeFileSync(place('tiny-classifier.safetensors'), randomFile(classifier));
  });

  test('another sampler, a filter, the gradient at the mean', () => {
    const runs = [
      make('a.safetensors', ...one, '--sampler', 'heun', '--filter', 'adam:0.8,0.9', '--scale', '0.1'),
      make(
        'b.safetensors',
        ...one,
        '--sampler',
        'ddpm',
        '--guidance-at',
        'mean',
        '--threshold',
        '0.9',
        '--check-finite',
      ),
    ];
    expect(runs[0]!.report.options).toMatchObject({ sampler: 'heun', respacing: 'quad3', filter: { beta1: 0.8 } });
    expect(runs[1]!.report.options).toMatchObject({
      sampler: 'ddpm',
      respacing: '3',
      at: 'mean',
      dynamicThreshold: 0.9,
    });
    for (const { values } of runs) expect(values.every(Number.isFinite)).toBe(true);
    expect(runs[0]!.values).not.toEqual(runs[1]!.values);
  });

  test('a scale for each picture, in the paper’s convention', () => {
    const { report } = make(
      ...['w.safetensors', ...one, '--guidance', 'free', '--scale', '0.5,2', '--count', '3', '--convention', 'w'],
    );
    expect(report.options).toMatchObject({ scale: [0.5, 2], convention: 'w' });
    expect(report.files[0]).toBe('out/ddim-3-free-w0.5-2-seed5.png');
  });

  test('starts from a picture, keeps a part of it, measures it and finds its x_T', () => {
    make('base.safetensors', ...one, '--guidance', 'none', '--conditional', '--steps', '8');
    const base = samples('base.safetensors');
    const from = make('from.safetensors', ...one, '--image', 'base.safetensors', '--strength', '0.34');
    expect(from.report.steps).toBe(1);
    const pixels = Uint8Array.from({ length: 8 * 8 * 3 }, (_, i) => (Math.floor(i / 3) % 8 < 4 ? 0 : 255));
    writeFileSync(place('mask.png'), encodePng({ width: 8, height: 8, pixels }));
    const { values } = make(
      'inpaint.safetensors',
      '--class',
      '1',
      '--image',
      'base.safetensors',
      '--inpaint',
      'mask.png',
    );
    expect(values.filter((_, i) => i % 8 < 4)).toEqual(base.filter((_, i) => i % 8 < 4));
    expect(values).not.toEqual(base);

    const measured = pilotwave(
      'likelihood',
      'base.safetensors',
      '--model',
      'tiny-unet.safetensors',
      '--steps',
      '10',
      '--json',
      '--conditional',
    );
    expect(measured.status, measured.stderr).toBe(0);
    const { mean, pictures } = JSON.parse(measured.stdout);
    expect(pictures).toEqual([{ label: 8, bitsPerDim: mean, prior: expect.closeTo(0, 1) }]);
    expect(mean).toBeGreaterThan(0);
    const inverted = pilotwave(
      'invert',
      'base.safetensors',
      '--model',
      'tiny-unet.safetensors',
      '--conditional',
      '--steps',
      '40',
      '--out',
      'inverse.safetensors',
    );
    expect(inverted.status, inverted.stderr).toBe(0);
    expect(inverted.stdout.trim()).toBe('inverse.safetensors');
    const { tensors } = readSafetensors(readFileSync(place('inverse.safetensors')));
    expect(tensors.get('x_T')!.shape).toEqual([1, 1, 8, 8]);
    const xT = toNumbers(tensors.get('x_T')!);
    const spread = Math.hypot(...xT) / Math.sqrt(xT.length);
    expect(spread).toBeGreaterThan(0.1);
    expect(xT).not.toEqual(base);
  });

  test('two stages', () => {
    const [unet] = TINY_CONFIGS;
    if (unet.kind !== 'unet') throw new Error('expected a U-Net');
    const large = { ...unet, kind: 'super_resolution', model: { ...unet.model, image_size: 16 } } as const;
    writeFileSync(place('large.safetensors'), randomFile(large));
    const found = make(
      'large-samples.safetensors',
      ...one,
      '--upsampler',
      'large.safetensors',
      '--upsampler-steps',
      '2',
    );
    expect(found.values.length).toBe(16 * 16);
    expect(found.report.files[0]).toBe('out/ddim-3-classifier-scale4-upsampled-seed5.png');
  });
});

describe('inspect', () => {
  test('a line of flags', () => {
    const { status, stdout } = pilotwave(
      'inspect',
      '--flags',
      '--image_size 64 --num_channels 64 --classifier_width 64',
      '--batch',
      '2',
    );
    expect(status).toBe(0);
    expect(stdout).toContain('U-Net: 64 x 64; 3 → 3 channels');
    expect(stdout).toContain('Classifier: 64 x 64; 3 → 1000 classes');
    expect(stdout).toMatch(/├─ input_blocks\n│ {2}├─ 0\.0 +convolution 3 x 3, 3 → 64/);
    expect(stdout).toMatch(/Plan of the guided DDIM step: \d+ dispatches, [\d.]+ G multiply-adds, peak [\d.]+ MB/);
  });

  test('within a memory budget, or the reason why not', () => {
    const plans = (megabytes: string) =>
      pilotwave('inspect', CLASSIFIER_FILE, '--batch', '10', '--memory-budget', megabytes).stdout;
    expect(plans('7')).toMatch(/input gradient: \d+ dispatches, \d+ of them to compute anew what did not fit, /);
    expect(plans('100')).not.toContain('anew');
    expect(plans('1')).toContain('Not within the budget: memoryBudget is 1,000,000 bytes, and no way was found');
  });

  test('a file, as JSON', () => {
    const { status, stdout } = pilotwave('inspect', UNET_FILE, '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ models: [{ parameters: 1371650, config: { kind: 'unet' } }] });
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
  let before: string[] = [];
  beforeAll(() => {
    before = readdirSync(folder).sort();
  });

  test.each<[string[], string]>([
    [['generate', '--class', 'banana'], 'unknown class "banana"; known are T-shirt/top, Trouser'],
    [['generate', '--class', '10'], '--class should be from 0 to 9, found 10'],
    [['generate', '--clas', 'bag'], 'unknown option --clas; known are --class'],
    [['generate', 'bag'], 'generate takes options only, found "bag"'],
    [['generate', '--sampler', 'euler'], '--sampler should be ddim, ddpm, dpm or heun, found "euler"'],
    [['generate', '--guidance', 'clip'], '--guidance should be classifier, free or none, found "clip"'],
    [['generate', '--scale', 'strong'], '--scale should be a number, found "strong"'],
    [['generate', '--scale', 'NaN'], '--scale should be a number, found "NaN"'],
    [['generate', '--count', '0'], '--count should be a whole number from 1 to 10000, found "0"'],
    [['generate', '--steps', '2.5'], '--steps should be a whole number from 1 on, found "2.5"'],
    [['generate', '--steps', '999'], 'no whole stride takes exactly 999 of 1000 timesteps'],
    [['generate', '--respacing', '10;5'], 'respacing should be "N", "a,b,c", "ddimN" or "quadN", found "10;5"'],
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
    [['generate', '--model', CLASSIFIER_FILE], '--model needs a U-Net, this checkpoint holds another model'],
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
    [
      ['paint'],
      'unknown command "paint"; known are generate, likelihood, invert, inspect, bench, tune, convert, evaluate, ',
    ],
    [['inspect'], 'inspect needs a file, or --flags'],
    [['inspect', '--flags', '--num_chanels 3'], '--num_chanels is no flag of guided-diffusion'],
    [['inspect', '--flags', '--classifier_width 32'], '96 channels (3 times 32), which do not divide into heads of 64'],
    [['inspect', '--flags', '--image_size 64', '--height', '31'], 'H and W divisible by 8, found'],
    [['likelihood', 'text.safetensors'], 'text.safetensors: not a safetensors file'],
    [['invert'], 'invert takes one file of pictures'],
    [['generate', '--filter', 'sgd'], '--filter should be none, momentum or adam, found "sgd"'],
    [['generate', '--filter', 'momentum:1.5'], '--filter should be a number from 0 to 0.999999, found "1.5"'],
    [['generate', '--guidance-at', 'mean'], '--guidance-at mean needs --sampler ddpm; ddim has no mean'],
    [['generate', '--scale-interval', '700'], '--scale-interval should be two timesteps LOW,HIGH, found "700"'],
    [['generate', '--inpaint', 'mask.png'], '--inpaint needs --image'],
    [['generate', '--image', 'foreign.safetensors'], 'foreign.safetensors should be a PNG file, or a safetensors file'],
    [['generate', '--upsampler', UNET_FILE], '--upsampler needs a super-resolution model'],
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
        .filter((name) => name !== 'out'),
    ).toEqual(before.filter((name) => name !== 'out'));
  });
});

test('help is on standard output, and lists the commands and the options', () => {
  expect(pilotwave('--help').stdout).toContain('pilotwave generate [options]');
  const { status, stdout } = pilotwave('generate', '--help');
  expect(status).toBe(0);
  expect(stdout).toContain('--guidance KIND');
});

describe('tune', () => {
  test('writes the times of each shape’s variants, and goes on from there', () => {
    const model = place('tiny-to-tune.safetensors');
    writeFileSync(model, randomFile(TINY_CONFIGS[0]));
    const table = place('table.json');
    const argv = ['tune', model, '--seconds', '0.01', '--table', table];
    const first = pilotwave(...argv);
    expect(first.stderr).toContain('Adapter');
    expect(first.status).toBe(0);
    // The budget ends after one shape: the heaviest, a convolution of 3 x 3.
    const [line, ...more] = first.stdout.trim().split('\n');
    expect(more).toEqual([]);
    const sizes = /^conv2d 3x3 stride 1, ([\d ]+): /.exec(line!)?.[1];
    const fastest = /: ([a-z][\w ]*) [\d.e+-]+(?:,| ms)/.exec(line!)![1]!;
    const timesOf = () => {
      const { times, compilation } = JSON.parse(readFileSync(table, 'utf8'));
      expect(Object.keys(compilation).length).toBeGreaterThan(0);
      expect(Object.keys(times)).toEqual(['conv2d']);
      return times.conv2d['3x3 stride 1'][sizes!];
    };
    const before = timesOf();
    expect(Math.min(...(Object.values(before) as number[]))).toBe(before[fastest]);
    const second = pilotwave(...argv);
    expect(second.stdout).not.toContain(`3x3 stride 1, ${sizes}:`);
    expect(timesOf()).toEqual(before);
    writeFileSync(table, '[1]');
    expect(pilotwave(...argv).stderr).toContain('should hold a table');
  });
});
