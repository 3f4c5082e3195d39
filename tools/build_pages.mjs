// Builds dist-pages/: the two pages with their models, for any static file server under any path. Another folder may be
// given as an argument.
import { join, resolve } from 'node:path';
import { build } from 'vite';
import { root, writeTypes } from './shaders/write_types.mjs';

writeTypes();
const demo = join(root, 'demo');
await build({
  root: demo,
  configFile: join(root, 'vite.config.mjs'),
  base: './',
  logLevel: 'warn',
  build: {
    target: 'es2022',
    outDir: resolve(process.argv[2] ?? join(root, 'dist-pages')),
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: { generate: join(demo, 'index.html'), bench: join(demo, 'bench/index.html') },
      // The engine is a file of its own: both pages load it, and a browser keeps it when only a page changes.
      output: {
        entryFileNames: 'assets/[name]-[hash].js',
        codeSplitting: { groups: [{ name: 'engine', test: /[\\/](src|shaders)[\\/]/ }] },
      },
    },
  },
});
