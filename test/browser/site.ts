/** @file The pages as built for the tests: once before all of them, since builds must not run side by side. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Below the project's folder, ignored by git: a path of several parts, as a server might have it. */
export const SITE = 'out/site';

export function buildSite(): void {
  const args = [join(root, 'tools', 'build_pages.mjs'), join(root, SITE)];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`building the pages failed: ${stderr}`);
}

/** A page, and the scripts and style sheets of all, by name. */
export function siteFiles(page: string): Map<string, Buffer> {
  const folder = join(root, SITE);
  const files = new Map([[page, readFileSync(join(folder, page))]]);
  for (const name of readdirSync(join(folder, 'assets'))) {
    if (/\.(js|css)$/.test(name)) files.set(name, readFileSync(join(folder, 'assets', name)));
  }
  return files;
}
