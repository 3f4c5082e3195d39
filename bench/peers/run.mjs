// Pilotwave beside its peers. Builds the program, which is TypeScript, and runs it; see README.md.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const cache = join(folder, 'node_modules', '.cache', 'pilotwave-peers');
if (!existsSync(join(folder, 'node_modules', 'esbuild'))) {
  console.error(`First, in ${folder}: npm install`);
  process.exit(1);
}
process.env.PEERS_FOLDER = folder;
const { build } = await import('esbuild');
await build({
  entryPoints: { main: join(folder, 'driver', 'main.ts'), node_child: join(folder, 'driver', 'node_child.ts') },
  outdir: cache,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  packages: 'external',
  logLevel: 'error',
});
const { main } = await import(pathToFileURL(join(cache, 'main.mjs')).href);
process.exitCode = await main(process.argv.slice(2));
