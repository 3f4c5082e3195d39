// Builds dist/: pilotwave.js and kernels.js (each one ESM file without imports), node.js and cli.js for Node, the types.
import { spawnSync } from 'node:child_process';
import { utimesSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'vite';
import { root } from './shaders/write_types.mjs';

const shared = { root, configFile: join(root, 'vite.config.mjs'), logLevel: 'warn' };

// Each of these is one file without imports, so that a page can take it as it is.
for (const [name, entry] of [
  ['pilotwave', 'src/index.ts'],
  ['kernels', 'src/kernels.ts'],
]) {
  await build({
    ...shared,
    build: {
      target: 'es2022',
      emptyOutDir: name === 'pilotwave',
      minify: false,
      sourcemap: true,
      lib: { entry: { [name]: join(root, entry) }, formats: ['es'] },
    },
  });
}
await build({
  ...shared,
  build: {
    target: 'node20',
    emptyOutDir: false,
    minify: false,
    sourcemap: true,
    ssr: true,
    rollupOptions: {
      input: { cli: join(root, 'src/cli/pilotwave.ts'), node: join(root, 'src/node/index.ts') },
      output: { chunkFileNames: 'chunks/[name].js' },
    },
  },
});
const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
const types = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json')], { stdio: ['ignore', 2, 2] });
if (types.status !== 0) process.exit(types.status ?? 1);
const now = new Date();
utimesSync(join(root, 'dist', 'cli.js'), now, now); // only a build that went through to the end counts as new
