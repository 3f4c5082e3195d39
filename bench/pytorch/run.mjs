// A guided step in PyTorch and in Pilotwave on the same device, from the same weights and inputs: see README.md.
// Needs Node, a built dist/ with the package webgpu beside it, and a python3 with PyTorch; builds and installs nothing.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { kept, RIVALS, ratios, table } from './report.mjs';

const folder = dirname(fileURLToPath(import.meta.url));
const cli = join(folder, '..', '..', 'dist', 'cli.js');

const { values: options } = parseArgs({
  options: {
    batch: { type: 'string', default: '8' },
    small: { type: 'boolean', default: false },
    adapter: { type: 'string', default: 'gpu' },
    'tune-seconds': { type: 'string', default: '60' },
    only: { type: 'string' },
    python: { type: 'string', default: 'python3' },
    files: { type: 'string' },
    json: { type: 'string' },
  },
});
const { batch, small, adapter, python } = options;
const date = new Date().toISOString().slice(0, 10);
const json = resolve(
  options.json ?? join(folder, '..', 'results', `${date}-pytorch-${small ? 'small' : 'adm64'}-batch${batch}.json`),
);
const rivals = RIVALS.filter(({ accuracy }) => options.only === undefined || options.only === accuracy);

if (!existsSync(cli)) fail(`${cli} is missing: build first, with npm run build`);
if (rivals.length === 0) fail(`--only should be ${RIVALS.map(({ accuracy }) => accuracy).join(' or ')}`);
mkdirSync(dirname(json), { recursive: true });

const files = options.files ?? mkdtempSync(join(tmpdir(), 'pilotwave-pytorch-'));
const path = (name) => join(files, name);
const result = {
  format: 'pilotwave-pytorch 1',
  date,
  batch: Number(batch),
  pytorch: { first: null, again: null },
  pilotwave: {},
  ratios: [],
};
let failures = 0;
try {
  const common = ['--batch', batch, ...(small ? ['--small'] : [])];
  result.pytorch.first = await torch([...common, '--out', files], 'first.json');
  save();
  for (const { accuracy } of rivals) {
    const found = await ours(accuracy);
    if (found) result.pilotwave[accuracy] = found;
    save();
  }
  result.pytorch.again = await torch([...common, '--again', path('first.json')], 'again.json');
  save();
  console.error(`\n${json}`);
  process.stdout.write(`${heading()}\n${table(result).join('\n')}\n`);
} finally {
  if (options.files === undefined) rmSync(files, { recursive: true, force: true });
}
process.exitCode = failures > 0 ? 1 : 0;

/** Runs guided_step.py. @returns the object that it prints, or null if it failed */
async function torch(args, name) {
  const { status, output } = await run(python, [join(folder, 'guided_step.py'), ...args], 'pipe');
  if (status !== 0) {
    if (name === 'first.json') fail(`${python} failed with exit status ${status}`);
    failures++;
    return null;
  }
  writeFileSync(path(name), output);
  return JSON.parse(output);
}

/** Runs our benchmark on the files that PyTorch wrote. @returns what is kept of its result, or null if it failed */
async function ours(accuracy) {
  const file = path(`pilotwave-${accuracy}.json`);
  const models = ['--model', path('unet.safetensors'), '--classifier', path('classifier.safetensors')];
  const { status } = await run(
    process.execPath,
    [
      ...[cli, 'bench', '--only', 'models', ...models, '--expect', path('expected.safetensors')],
      ...['--batch', batch, '--accuracy', accuracy, '--adapter', adapter],
      ...['--tune-seconds', options['tune-seconds'], '--json', file],
    ],
    2,
  );
  // A wrong result is written down too, with exit status 1.
  if (status !== 0) failures++;
  return existsSync(file) ? kept(JSON.parse(readFileSync(file, 'utf8'))) : null;
}

/** @param stdout "pipe" to collect it, or a descriptor of ours */
function run(command, args, stdout) {
  return new Promise((done) => {
    const child = spawn(command, args, { stdio: ['ignore', stdout, 2] });
    let output = '';
    child.stdout?.on('data', (part) => {
      output += part;
    });
    child.on('error', (error) => fail(`${command} cannot be started: ${error.message}`));
    child.on('close', (status) => done({ status, output }));
  });
}

/** After every stage, so that nothing is lost if time runs out. */
function save() {
  result.ratios = ratios(result);
  writeFileSync(json, `${JSON.stringify(result, null, 1)}\n`);
}

function heading() {
  const { model, device, torch: version, cuda, cudnn, driver } = result.pytorch.first;
  const name = Object.values(result.pilotwave)[0]?.adapter.name ?? 'none';
  return [
    `${model}, batch ${batch}, ${date}`,
    `PyTorch ${version} on ${device}, CUDA ${cuda}, cuDNN ${cudnn}, driver ${driver}; Pilotwave on ${name}`,
    'milliseconds of GPU time, medians; ratio of ours to theirs; relative error of ours against PyTorch in float32',
  ].join('\n');
}

function fail(text) {
  console.error(text);
  if (files && options.files === undefined) rmSync(files, { recursive: true, force: true });
  process.exit(1);
}
