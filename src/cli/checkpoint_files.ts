/**
 * @file Checkpoints on disk: opened by ranges, never read whole, whatever their size.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDiffusersConfig, openDiffusers } from '../checkpoints/diffusers.ts';
import { configFromFlags } from '../checkpoints/fit.ts';
import { parseFlags } from '../checkpoints/flags.ts';
import { type Model, openModel } from '../checkpoints/model.ts';
import { type OpenCheckpoint, openCheckpoint, type ReadOptions } from '../checkpoints/read.ts';
import { openShards } from '../checkpoints/shards.ts';
import type { ByteSource } from '../checkpoints/source.ts';
import type { Runtime } from '../runtime/device.ts';
import { CheckpointError, OptionError } from '../runtime/errors.ts';
import { naming } from './files.ts';

/** Files that a folder of a checkpoint may hold, in the order in which they are looked for. */
const INDEX_NAMES = ['model.safetensors.index.json', 'diffusion_pytorch_model.safetensors.index.json'];
const FILE_NAMES = [
  'model.safetensors',
  'diffusion_pytorch_model.safetensors',
  'diffusion_pytorch_model.bin',
  'pytorch_model.bin',
];

/** A file as a source of ranges. @throws OptionError if it cannot be read */
export async function openFile(path: string): Promise<ByteSource> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new OptionError(`cannot read ${path}: ${code === 'ENOENT' ? 'there is no such file' : String(error)}`);
  }
  const { size } = await handle.stat();
  return {
    size,
    async read(begin, end) {
      const bytes = new Uint8Array(end - begin);
      for (let done = 0; done < bytes.byteLength; ) {
        const { bytesRead } = await handle.read(bytes, done, bytes.byteLength - done, begin + done);
        if (bytesRead === 0) throw new CheckpointError(`${path} became shorter while it was read`);
        done += bytesRead;
      }
      return bytes;
    },
    close: () => handle.close(),
  };
}

/**
 * Opens a checkpoint: a file of any known format, an index of shards, or a folder that holds either.
 *
 * @throws OptionError if there is none, CheckpointError naming the file and what is wrong with it
 */
export async function openCheckpointFile(path: string, options: ReadOptions = {}): Promise<OpenCheckpoint> {
  const file = fileOf(path);
  return naming(file, async () => {
    const opened = await openTensors(file, options);
    try {
      const config = textBeside(file, 'config.json');
      if (config === null || !isDiffusersConfig(config) || opened.metadata.has('config')) return opened;
      const scheduler =
        textBeside(file, 'scheduler_config.json') ?? textBeside(file, join('..', 'scheduler', 'scheduler_config.json'));
      return openDiffusers(opened, config, scheduler);
    } catch (error) {
      await opened.close();
      throw error;
    }
  });
}

async function openTensors(file: string, options: ReadOptions): Promise<OpenCheckpoint> {
  if (file.endsWith('.index.json')) {
    return openShards(readFileSync(file, 'utf8'), (name) => openFile(join(dirname(file), name)));
  }
  const source = await openFile(file);
  try {
    return await openCheckpoint(source, options);
  } catch (error) {
    await source.close?.();
    throw error;
  }
}

/**
 * Opens a model. Its parameters are read from the file when a plan packs them.
 *
 * @param flags what it is, if the file does not say so: guided-diffusion's flags
 * @throws OptionError or CheckpointError, as `openCheckpointFile`
 */
export async function readModel(runtime: Runtime, path: string, flags?: string): Promise<Model> {
  const given = flags === undefined ? null : parseFlags(flags);
  const file = await openCheckpointFile(path);
  try {
    return await naming(path, async () =>
      openModel(runtime, file, given ? configFromFlags(given, file.tensors) : undefined),
    );
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A small text file in the same folder, or null. */
function textBeside(file: string, name: string): string | null {
  const path = join(dirname(file), name);
  return statSync(path, { throwIfNoEntry: false })?.isFile() ? readFileSync(path, 'utf8') : null;
}

function fileOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) throw new OptionError(`cannot read the checkpoint ${path}: there is no such file`);
  if (!found.isDirectory()) return path;
  const names = [...INDEX_NAMES, ...FILE_NAMES];
  const name = names.find((candidate) => existsSync(join(path, candidate)));
  if (name !== undefined) return join(path, name);
  throw new OptionError(`cannot read the checkpoint ${path}: it is a folder without any of ${names.join(', ')}`);
}
