// Pilotwave beside its peers. Builds the program, which is TypeScript, and runs it; see README.md.
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const modules = join(folder, 'node_modules');
if (!existsSync(join(modules, 'esbuild'))) {
  console.error(`First, in ${folder}: npm install`);
  process.exit(1);
}
// Below node_modules, so that the program finds its packages.
mkdirSync(join(modules, '.cache'), { recursive: true });
const bundles = mkdtempSync(join(modules, '.cache', 'pilotwave-peers-'));
process.env.PEERS_FOLDER = folder;
process.env.PEERS_BUNDLES = bundles;
try {
  const { build } = await import('esbuild');
  await build({
    entryPoints: { main: join(folder, 'driver', 'main.ts'), node_child: join(folder, 'driver', 'node_child.ts') },
    outdir: bundles,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    packages: 'external',
    logLevel: 'error',
  });
  const { main } = await import(pathToFileURL(join(bundles, 'main.mjs')).href);
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  rmSync(bundles, { recursive: true, force: true });
}
