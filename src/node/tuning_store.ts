/**
 * @file Where measured times of kernels are kept in Node: a file an adapter in the user's cache folder.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { TuningStore } from '../runtime/tuning.ts';

const cacheFolder = (): string => join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'pilotwave');

/**
 * Keeps tables in `folder`. A folder that cannot be written to keeps nothing, and everything is measured again.
 *
 * @param folder by default `pilotwave` in the user's cache folder
 */
export function fileStore(folder: string = cacheFolder()): TuningStore {
  const fileOf = (adapter: string) => join(folder, `tuning-${adapter.replace(/[^\w.-]+/g, '_')}.json`);
  return {
    read: (adapter) => readFile(fileOf(adapter), 'utf8').catch(() => null),
    async write(adapter, text) {
      const file = fileOf(adapter);
      const part = `${file}.${process.pid}`;
      try {
        await mkdir(folder, { recursive: true });
        await writeFile(part, text);
        await rename(part, file); // another process sees the old table or the new one, never a half
      } catch {
        // Nothing is lost but the time to measure again.
      }
    },
  };
}
