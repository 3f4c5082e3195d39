/**
 * @file Each contestant with the measuring loop, as one module for a page or a child process.
 */
import { writeFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { build } from 'esbuild';
import type { Entry } from '../contestants/index.ts';
import { bundles, folder } from './places.ts';

/** Some libraries, bundled as for a page, find out that they are in Node and then want its `require`. */
const NODE_REQUIRE =
  "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);";

/** @returns the bundle's path below the folder of bundles */
export async function bundleOf(name: string, { module }: Entry, host: 'browser' | 'node'): Promise<string> {
  const contestant = isAbsolute(module) ? module : join(folder, 'contestants', module);
  const contents = `
    import { contestant } from ${JSON.stringify(contestant)};
    import { start as begin } from ${JSON.stringify(join(folder, 'measure', 'worker.ts'))};
    export const start = (c, options) => begin(contestant, c, options);
    export { round, warmUp } from ${JSON.stringify(join(folder, 'measure', 'worker.ts'))};`;
  const outdir = join(bundles, name);
  await build({
    stdin: { contents, resolveDir: folder, sourcefile: 'entry.js' },
    outdir,
    entryNames: 'index',
    bundle: true,
    minify: true,
    splitting: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    // A contestant elsewhere in the file system may still want what is installed here.
    nodePaths: [join(folder, 'node_modules')],
    conditions: ['browser', 'import'],
    mainFields: ['module', 'browser', 'main'],
    define: { 'process.env.NODE_ENV': '"production"' },
    external: ['node:*', 'fs', 'path', 'url', 'util', 'os', 'worker_threads', 'module', 'crypto', 'string_decoder'],
    ...(host === 'node' && { banner: { js: NODE_REQUIRE } }),
    logLevel: 'error',
  });
  writeFileSync(join(bundles, 'package.json'), '{"type":"module"}');
  return `${name}/index.js`;
}
