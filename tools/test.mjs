// `npm test`: format, lint, types, then all tests. Further arguments go to Vitest.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { root, writeTypes } from './shaders/write_types.mjs';

const bin = (path) => join(root, 'node_modules', path);
const run = (script, args) => {
  const { status } = spawnSync(process.execPath, [script, ...args], { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
};

writeTypes();
run(bin('@biomejs/biome/bin/biome'), ['check', '.']);
run(bin('typescript/bin/tsc'), ['--noEmit']);
run(bin('vitest/vitest.mjs'), ['run', ...process.argv.slice(2)]);
