/**
 * @file Reads a checkpoint of any format this project knows, by what the file begins with, not by its name.
 */
import { looksLikePytorch, readPytorch } from './pytorch.ts';
import { type Checkpoint, readSafetensors } from './safetensors.ts';

export interface ReadOptions {
  /** In a PyTorch file: the key under which the state dict lies. Found by itself under the usual names. */
  readonly key?: string;
}

/**
 * @param file the whole file; tensors are views of it wherever they can be
 * @throws CheckpointError naming what is wrong
 */
export function readCheckpoint(file: ArrayBuffer | Uint8Array, { key }: ReadOptions = {}): Checkpoint {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return looksLikePytorch(bytes) ? readPytorch(bytes, key) : readSafetensors(bytes);
}
