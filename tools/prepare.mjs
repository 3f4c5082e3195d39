// Runs before every npm command: installs what is missing, and with --build builds dist/ when a source is newer.
// Uses nothing but Node, and writes to standard error alone, so that a command's own output stays clean.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const modules = join(root, 'node_modules');
const stamp = join(modules, '.pilotwave-installed');

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19))
  fail(`Pilotwave needs Node 20.19 or later, found ${process.versions.node}.`);

install();
if (process.argv.includes('--build')) build();

function install() {
  const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  console.error('Installing the development packages (npm ci, once, about 420 MB) …');
  // Given npm's own variables, a nested npm would take this command's arguments for its own.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(config_)?(argv|package|lifecycle)/.test(name)),
  );
  run(npm(), ['ci', '--no-audit', '--no-fund', '--loglevel=error'], env);
  writeFileSync(stamp, lock);
}

function build() {
  const output = join(root, 'dist', 'cli.js');
  const sources = [
    'src',
    'bench',
    'shaders',
    'tools',
    'vite.config.mjs',
    'tsconfig.json',
    'tsconfig.build.json',
    'package-lock.json',
  ];
  const newest = Math.max(...sources.map((name) => newestChange(join(root, name))));
  if (existsSync(output) && statSync(output).mtimeMs >= newest) return;
  console.error('Building dist/ …');
  run(process.execPath, [join(root, 'tools', 'build.mjs')], process.env);
}

/** Time of the latest change in a file or below a folder, deletions included. */
function newestChange(path) {
  const { mtimeMs } = statSync(path);
  if (!statSync(path).isDirectory()) return mtimeMs;
  return Math.max(mtimeMs, ...readdirSync(path).map((name) => newestChange(join(path, name))));
}

function npm() {
  return process.platform === 'win32' ? 'npm.cmd' : 'npm';
}

function run(command, args, env) {
  const result = spawnSync(command, args, {
    cwd: root,
    env,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (result.status !== 0)
    fail(`"${[command, ...args].join(' ')}" failed with exit status ${result.status ?? result.signal}.`);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
