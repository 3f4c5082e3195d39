/**
 * @file A golden folder: its manifest and its tensors.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { convertCheckpoint, type NumberFormat } from '../../checkpoints/convert.ts';
import { openCheckpoint } from '../../checkpoints/read.ts';
import { type Checkpoint, readSafetensors, toNumbers } from '../../checkpoints/safetensors.ts';
import { memorySource } from '../../checkpoints/source.ts';
import { CheckpointError, OptionError } from '../../runtime/errors.ts';

export interface OutputSpec {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly exact?: boolean;
  /** Element by element, relative to the reference. */
  readonly tol_rel?: number;
  readonly tol_rel_l2?: number;
  readonly tol_max_abs?: number;
  /** The relative error is taken for each index of the first axis by itself; the worst counts. */
  readonly per_step?: boolean;
  readonly zero_in_exact_arithmetic?: boolean;
}

export interface GoldenCase {
  readonly id: string;
  readonly kind: string;
  readonly file?: string;
  readonly prefix?: string;
  // biome-ignore lint/suspicious/noExplicitAny: the manifest is JSON whose form depends on `kind`
  readonly config: any;
  readonly inputs?: Readonly<Record<string, readonly [string, readonly number[]]>>;
  readonly outputs?: Readonly<Record<string, OutputSpec>>;
  readonly groups?: Readonly<Record<string, unknown>>;
  readonly single_step?: Readonly<Record<string, OutputSpec>>;
  readonly raises?: string;
  /** Of a checkpoint to read: the file with the same values, and whether refusing it is right too. */
  readonly reference?: string;
  readonly may_refuse?: boolean;
  /** Of a checkpoint to refuse: how, and what is wrong with it. */
  readonly expect?: string;
  readonly note?: string;
}

export interface GoldenModel {
  readonly class_name: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly file: string;
}

export interface Values {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export class GoldenFolder {
  readonly cases: readonly GoldenCase[];
  readonly models: Readonly<Record<string, GoldenModel>>;
  readonly #folder: string;
  readonly #files = new Map<string, Checkpoint>();

  /** @throws OptionError if there is no manifest */
  #format: NumberFormat | null = null;

  constructor(folder: string) {
    this.#folder = folder;
    let text: string;
    try {
      text = readFileSync(join(folder, 'manifest.json'), 'utf8');
    } catch {
      throw new OptionError(`expected a golden folder with a manifest.json, found none in ${folder}`);
    }
    let json: { cases?: GoldenCase[]; models?: Record<string, GoldenModel> };
    try {
      json = JSON.parse(text);
    } catch {
      throw new OptionError(`${join(folder, 'manifest.json')} is not JSON`);
    }
    if (!Array.isArray(json.cases)) throw new OptionError(`${join(folder, 'manifest.json')} has no list "cases"`);
    this.cases = json.cases;
    this.models = json.models ?? {};
  }

  /** The number format that its models were given, or null where they are as recorded. */
  get format(): NumberFormat | null {
    return this.#format;
  }

  path(file: string): string {
    return join(this.#folder, file);
  }

  checkpoint(file: string): Checkpoint {
    let checkpoint = this.#files.get(file);
    if (!checkpoint) {
      let bytes: Buffer;
      try {
        bytes = readFileSync(join(this.#folder, file));
      } catch {
        throw new CheckpointError(`${file} is missing`);
      }
      checkpoint = readSafetensors(bytes);
      this.#files.set(file, checkpoint);
    }
    return checkpoint;
  }

  /** Gives every model of the folder weights in another number format, in memory. */
  async convertModels(format: NumberFormat): Promise<void> {
    this.#format = format;
    for (const { file } of Object.values(this.models)) {
      const parts: Uint8Array[] = [];
      const source = await openCheckpoint(memorySource(readFileSync(join(this.#folder, file))));
      await convertCheckpoint(source, async (bytes) => void parts.push(bytes.slice()), { format });
      this.#files.set(file, readSafetensors(Buffer.concat(parts)));
    }
  }

  /** Everything a case has recorded, under names without its prefix. */
  tensors(golden: GoldenCase): CaseTensors {
    return new CaseTensors(golden.file ? this.checkpoint(golden.file) : null, golden.prefix ?? '');
  }
}

export class CaseTensors {
  readonly #checkpoint: Checkpoint | null;
  readonly #prefix: string;

  constructor(checkpoint: Checkpoint | null, prefix: string) {
    this.#checkpoint = checkpoint;
    this.#prefix = prefix;
  }

  has(name: string): boolean {
    return this.#checkpoint?.tensors.has(this.#prefix + name) ?? false;
  }

  values(name: string): Values {
    const tensor = this.#checkpoint?.tensors.get(this.#prefix + name);
    if (!tensor) throw new CheckpointError(`the case has no tensor ${name}`);
    return { shape: tensor.shape, data: toNumbers(tensor) };
  }

  floats(name: string): Float32Array {
    return Float32Array.from(this.values(name).data);
  }

  numbers(name: string): number[] {
    return [...this.values(name).data];
  }

  /** The parameters `p.<name>` of an operation or block, as a checkpoint under `<as>.<name>`. */
  parameters(as: string): Checkpoint {
    const tensors = new Map<string, Checkpoint['tensors'] extends ReadonlyMap<string, infer T> ? T : never>();
    const start = `${this.#prefix}p.`;
    for (const [name, tensor] of this.#checkpoint?.tensors ?? []) {
      if (name.startsWith(start)) tensors.set(`${as}.${name.slice(start.length)}`, tensor);
    }
    return { tensors, metadata: new Map() };
  }
}
