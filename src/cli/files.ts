/**
 * @file Files of the command line: read with a clear complaint, written whole or not at all.
 */
import { accessSync, constants, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../checkpoints/safetensors.ts';
import { CheckpointError, OptionError } from '../runtime/errors.ts';

/** A file shipped in `weights/`, wherever the package is installed. */
export const shippedWeights = (name: string): string =>
  join(dirname(fileURLToPath(import.meta.url)), '..', 'weights', name);

/** @param what in words, for the complaint */
export function readInput(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const reason = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : String(error);
    throw new OptionError(`cannot read the ${what} ${path}: ${reason}`);
  }
}

/** Names the file in whatever is wrong with it. */
export function naming<T>(path: string, read: () => T): T {
  const named = (error: unknown) =>
    error instanceof CheckpointError ? new CheckpointError(`${path}: ${error.message}`, { cause: error }) : error;
  try {
    const result = read();
    if (!(result instanceof Promise)) return result;
    return result.catch((error) => {
      throw named(error);
    }) as T;
  } catch (error) {
    throw named(error);
  }
}

export function readTensors(path: string, what: string) {
  const bytes = readInput(path, what);
  return naming(path, () => readSafetensors(bytes));
}

/** Makes sure, before long work begins, that a file can be written there. */
export function checkWritable(path: string): void {
  const target = resolve(path);
  try {
    mkdirSync(dirname(target), { recursive: true });
    accessSync(dirname(target), constants.W_OK);
  } catch (error) {
    throw new OptionError(`cannot write ${path}: ${reasonOf(error)}`);
  }
  const existing = statSync(target, { throwIfNoEntry: false });
  if (existing?.isDirectory()) throw new OptionError(`cannot write ${path}: it is a folder`);
  if (existing) {
    try {
      accessSync(target, constants.W_OK);
    } catch (error) {
      throw new OptionError(`cannot write ${path}: ${reasonOf(error)}`);
    }
  }
}

/** Writes beside the target and renames, so that nobody ever sees half a file. */
export function writeWhole(path: string, data: Uint8Array | string): void {
  const partial = `${resolve(path)}.${process.pid}.partial`;
  try {
    writeFileSync(partial, data);
    renameSync(partial, resolve(path));
  } catch (error) {
    rmSync(partial, { force: true });
    throw new OptionError(`cannot write ${path}: ${reasonOf(error)}`);
  }
}

function reasonOf(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return 'no permission';
  if (code === 'ENOTDIR' || code === 'EEXIST') return 'a part of its path is a file, not a folder';
  if (code === 'ENOSPC') return 'the disk is full';
  return error instanceof Error ? error.message : String(error);
}
