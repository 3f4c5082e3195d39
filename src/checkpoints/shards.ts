/**
 * @file Checkpoints in several safetensors files, with an index beside them (`model.safetensors.index.json`):
 *
 *   { "metadata": { "total_size": n }, "weight_map": { "tensor": "model-00001-of-00002.safetensors", … } }
 */
import { CheckpointError } from '../runtime/errors.ts';
import { type OpenCheckpoint, openCheckpoint } from './read.ts';
import { show } from './show.ts';
import type { ByteSource } from './source.ts';
import type { TensorInfo } from './stored.ts';

/** @returns the tensors of each file, by the file's name, in the order of first mention */
export function readShardIndex(text: string): Map<string, Set<string>> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(
      `the index of the shards is not JSON (${error instanceof Error ? error.message : error})`,
    );
  }
  const map = (Object(json) as { weight_map?: unknown }).weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new CheckpointError(`the index of the shards should have an object "weight_map", found ${show(map)}`);
  }
  const files = new Map<string, Set<string>>();
  for (const [tensor, file] of Object.entries(map)) {
    // A name with a path in it could lead out of the folder.
    if (typeof file !== 'string' || !/^[\w][\w .-]*$/.test(file)) {
      throw new CheckpointError(`the index of the shards has ${show(tensor)} in ${show(file)}, which is no file name`);
    }
    if (!files.has(file)) files.set(file, new Set());
    files.get(file)!.add(tensor);
  }
  if (files.size === 0) throw new CheckpointError('the index of the shards names no tensor');
  return files;
}

/**
 * Opens all shards as one checkpoint.
 *
 * @param index the text of the index
 * @param open gives the file of that name, which lies beside the index
 * @throws CheckpointError if a shard is damaged, or does not hold what the index says it does
 */
export async function openShards(index: string, open: (file: string) => Promise<ByteSource>): Promise<OpenCheckpoint> {
  const shards: OpenCheckpoint[] = [];
  const tensors = new Map<string, TensorInfo>();
  const homes = new Map<string, OpenCheckpoint>();
  const metadata = new Map<string, string>();
  const close = async () => {
    for (const shard of shards) await shard.close();
  };
  try {
    for (const [file, names] of readShardIndex(index)) {
      const shard = await openCheckpoint(await open(file));
      shards.push(shard);
      for (const name of names) {
        if (!shard.tensors.has(name))
          throw new CheckpointError(`${file} lacks ${show(name)}, which the index puts there`);
      }
      for (const [name, tensor] of shard.tensors) {
        if (!names.has(name))
          throw new CheckpointError(`${file} holds ${show(name)}, which the index does not put there`);
        tensors.set(name, tensor);
        homes.set(name, shard);
      }
      for (const [key, value] of shard.metadata) if (!metadata.has(key)) metadata.set(key, value);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const home = (name: string) => {
    const shard = homes.get(name);
    if (!shard) throw new Error(`the checkpoint has no tensor ${name}`);
    return shard;
  };
  return {
    format: `safetensors in ${shards.length} files`,
    size: shards.reduce((sum, { size }) => sum + size, 0),
    metadata,
    tensors,
    read: (name) => home(name).read(name),
    readInto: (name, target) => home(name).readInto(name, target),
    close,
  };
}
