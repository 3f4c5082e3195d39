// Builds dist/: pilotwave.js (one ESM file without imports), node.js and cli.js for Node, and the types.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { build } from 'vite';
import { root } from './shaders/write_types.mjs';

const shared = { root, configFile: join(root, 'vite.config.mjs'), logLevel: 'warn' };

await build({
  ...shared,
  build: {
    target: 'es2022',
    minify: false,
    sourcemap: true,
    lib: { entry: { pilotwave: join(root, 'src/index.ts') }, formats: ['es'] },
  },
});
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
execFileSync(
  process.execPath,
  [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
  {
    stdio: 'inherit',
  },
);
