/**
 * @file Parameters: from the tensors of a checkpoint to the buffers that kernels read.
 *
 * A layer asks for its parameters in the layout its kernel wants (`matrix`, `vector`, `table`) and gets a value that
 * describes it. Matrices are packed on the GPU from the checkpoint's own bytes, once for each layout, and shared by all
 * plans of a model.
 */
import packMatrix from '../../shaders/weights/pack_matrix.wgsl';
import { type CheckpointTensor, toNumbers } from '../checkpoints/safetensors.ts';
import type { Runtime } from './device.ts';
import { DeviceError } from './errors.ts';
import { type Binding, type BoundCall, runOnce } from './pipelines.ts';
import { type PackedWeights, quads } from './resources.ts';
import { type KernelCall, kernelCall, lineGrid } from './shader.ts';

/** Where a packed channel comes from: an index in the checkpoint's tensor, or -1 for padding. */
export type ChannelMap = Int32Array;

export type Packing =
  | {
      readonly layout: 'matrix';
      /** Tensors [O, I, ...taps], stacked along O, each a multiple of 4 long. */
      readonly names: readonly string[];
      /** Packed output and input channels; null for the identity. */
      readonly outMap: ChannelMap | null;
      readonly inMap: ChannelMap | null;
      readonly outs: number;
      readonly ins: number;
      readonly taps: number;
      /** Swaps the roles of O and I: the matrix of the input gradient. */
      readonly transpose: boolean;
      /** Reverses the order of the taps: the kernel of the input gradient at stride 1. */
      readonly flip: boolean;
    }
  | {
      readonly layout: 'rows';
      readonly names: readonly string[];
      readonly map: ChannelMap | null;
      readonly transpose: boolean;
    };

export interface MatrixOptions {
  readonly outMap?: ChannelMap | null;
  readonly inMap?: ChannelMap | null;
  readonly transpose?: boolean;
  readonly flip?: boolean;
}

/** Gives each channel map a short name for use in keys. */
const mapNames = new WeakMap<ChannelMap, string>();
const mapName = (map: ChannelMap | null): string => {
  if (map === null) return '';
  let name = mapNames.get(map);
  if (name === undefined) {
    name = map.join();
    mapNames.set(map, name);
  }
  return name;
};

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Names and shapes of a model's parameters: enough to build a graph and to cost it, with no value in memory. */
export class WeightShapes {
  readonly #shapes: ReadonlyMap<string, readonly number[]>;

  constructor(shapes: ReadonlyMap<string, readonly number[]>) {
    this.#shapes = shapes;
  }

  shapeOf(name: string): readonly number[] {
    const shape = this.#shapes.get(name);
    if (!shape) throw new Error(`the model has no parameter ${name}`);
    return shape;
  }

  has(name: string): boolean {
    return this.#shapes.has(name);
  }

  /**
   * A matrix or a stack of convolution kernels [O, I, ...taps], as mat4x4f blocks [O/4, taps, I/4]; a block's columns are
   * input channels. Several names are stacked along O.
   */
  matrix(names: string | readonly string[], options: MatrixOptions = {}): PackedWeights {
    const list = typeof names === 'string' ? [names] : names;
    const { outMap = null, inMap = null, transpose = false, flip = false } = options;
    const shapes = list.map((name) => this.shapeOf(name));
    const sourceIns = shapes[0]![1]!;
    const taps = product(shapes[0]!.slice(2));
    if (shapes.some((s) => s[1] !== sourceIns || product(s.slice(2)) !== taps)) {
      throw new Error(`cannot stack ${list.join(', ')}: their input sizes differ`);
    }
    if (shapes.length > 1 && (transpose || outMap || shapes.some((s) => s[0]! % 4 !== 0))) {
      throw new Error(`cannot stack ${list.join(', ')}: rows must be multiples of 4, untransposed and unmapped`);
    }
    const rows = outMap?.length ?? shapes.reduce((sum, s) => sum + s[0]!, 0);
    const columns = inMap?.length ?? sourceIns;
    const [outs, ins] = transpose ? [columns, rows] : [rows, columns];
    const key = `matrix|${list}|${mapName(outMap)}|${mapName(inMap)}|${transpose}|${flip}`;
    return {
      kind: 'weights',
      source: this,
      key,
      bytes: quads(outs) * taps * quads(ins) * 64,
      packing: { layout: 'matrix', names: list, outMap, inMap, outs, ins, taps, transpose, flip },
    };
  }

  /** A vector, padded to vec4f. Several names follow one another, each a multiple of 4 long. */
  vector(names: string | readonly string[], map: ChannelMap | null = null): PackedWeights {
    const list = typeof names === 'string' ? [names] : names;
    const lengths = list.map((name) => product(this.shapeOf(name)));
    if (list.length > 1 && (map || lengths.some((n) => n % 4 !== 0)))
      throw new Error(`cannot stack ${list.join(', ')}`);
    const length = map?.length ?? lengths.reduce((a, b) => a + b, 0);
    return {
      kind: 'weights',
      source: this,
      key: `rows|${list}|${mapName(map)}|false`,
      bytes: quads(length) * 16,
      packing: { layout: 'rows', names: list, map, transpose: false },
    };
  }

  /** A matrix [rows, columns] as rows of vec4f, each padded; `transpose` stores its columns as rows. */
  table(name: string, transpose = false): PackedWeights {
    const [rows, columns] = this.shapeOf(name) as [number, number];
    return {
      kind: 'weights',
      source: this,
      key: `rows|${name}||${transpose}`,
      bytes: transpose ? columns * quads(rows) * 16 : rows * quads(columns) * 16,
      packing: { layout: 'rows', names: [name], map: null, transpose },
    };
  }
}

/** Raw bytes that may wait on the device at once. */
const MAX_UPLOAD_BYTES = 256 * 2 ** 20;

const FORMATS = { F32: 0, F16: 1, BF16: 2 } as const;

/** A tensor in one of the formats that the packing kernel reads; the others become float32 here. */
function packable(tensor: CheckpointTensor): CheckpointTensor {
  if (Object.hasOwn(FORMATS, tensor.dtype)) return tensor;
  return { ...tensor, dtype: 'F32', bytes: new Uint8Array(Float32Array.from(toNumbers(tensor)).buffer) };
}

/** A model's parameters on a device. */
export class Weights extends WeightShapes {
  readonly #runtime: Runtime;
  readonly #tensors: ReadonlyMap<string, CheckpointTensor>;
  readonly #packed = new Map<string, Binding>();
  readonly #buffers: GPUBuffer[] = [];
  #pending: Promise<unknown> = Promise.resolve();
  #bytes = 0;

  constructor(runtime: Runtime, tensors: ReadonlyMap<string, CheckpointTensor>) {
    super(new Map([...tensors].map(([name, tensor]) => [name, tensor.shape])));
    this.#runtime = runtime;
    this.#tensors = tensors;
  }

  /** Bytes of packed parameters on the device. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Where packed parameters lie. They must have been packed before. */
  binding(weights: PackedWeights): Binding {
    const binding = this.#packed.get(weights.key);
    if (!binding) throw new Error(`not packed: ${weights.key}`);
    return binding;
  }

  /** Packs what is not packed yet. Concurrent calls wait for one another. */
  pack(requests: Iterable<PackedWeights>): Promise<void> {
    const wanted = [...requests];
    const run = this.#pending.then(() => this.#pack(wanted));
    this.#pending = run.catch(() => {});
    return run;
  }

  async #pack(wanted: readonly PackedWeights[]): Promise<void> {
    const missing = new Map(wanted.filter((w) => !this.#packed.has(w.key)).map((w) => [w.key, w]));
    if (missing.size === 0) return;
    const places = this.#place([...missing.values()]);
    const uploads = new Uploads(this.#runtime);
    for (const [weights, place] of places) {
      if (weights.packing.layout === 'rows') this.#writeRows(weights, place);
      else this.#packMatrix(weights, place, uploads);
      if (uploads.bytes > MAX_UPLOAD_BYTES) await uploads.flush();
    }
    await uploads.flush();
    for (const [weights, place] of places) this.#packed.set(weights.key, place);
  }

  /** Lays requests out in as few buffers as the limits allow. */
  #place(requests: readonly PackedWeights[]): Map<PackedWeights, Binding> {
    const { buffers, limits } = this.#runtime;
    const places = new Map<PackedWeights, Binding>();
    let group: { weights: PackedWeights; offset: number }[] = [];
    let size = 0;
    const flush = () => {
      if (group.length === 0) return;
      const buffer = buffers.create('weights', size, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
      this.#buffers.push(buffer);
      this.#bytes += size;
      for (const { weights, offset } of group) places.set(weights, { buffer, offset, size: weights.bytes });
      group = [];
      size = 0;
    };
    for (const weights of requests) {
      if (weights.bytes > limits.maxStorageBufferBindingSize) {
        throw new DeviceError(
          'limit',
          `parameters ${weights.packing.names.join(', ')} need ${weights.bytes} bytes in one binding; this device allows ${limits.maxStorageBufferBindingSize}`,
        );
      }
      if (size + weights.bytes > limits.maxBufferSize) flush();
      group.push({ weights, offset: size });
      size += Math.ceil(weights.bytes / 256) * 256;
    }
    flush();
    return places;
  }

  #stored(name: string): CheckpointTensor {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new Error(`the model has no parameter ${name}`);
    return tensor;
  }

  #writeRows(weights: PackedWeights, place: Binding): void {
    const packing = weights.packing;
    if (packing.layout !== 'rows') return;
    const data = new Float32Array(weights.bytes / 4);
    let at = 0;
    for (const name of packing.names) {
      const values = toNumbers(this.#stored(name));
      const shape = this.#stored(name).shape;
      if (packing.map) {
        packing.map.forEach((from, to) => {
          if (from >= 0) data[to] = values[from]!;
        });
      } else if (shape.length === 2) {
        const [rows, columns] = shape as [number, number];
        const stride = quads(packing.transpose ? rows : columns) * 4;
        for (let r = 0; r < rows; r++) {
          for (let c = 0; c < columns; c++) {
            data[packing.transpose ? c * stride + r : r * stride + c] = values[r * columns + c]!;
          }
        }
      } else {
        data.set(values, at);
        at += values.length;
      }
    }
    this.#runtime.device.queue.writeBuffer(place.buffer, place.offset, data);
  }

  #packMatrix(weights: PackedWeights, place: Binding, uploads: Uploads): void {
    const packing = weights.packing;
    if (packing.layout !== 'matrix') return;
    const map = (channels: ChannelMap | null) =>
      channels && uploads.add('channel map', new Uint8Array(channels.buffer, channels.byteOffset, channels.byteLength));
    const outMap = map(packing.transpose ? packing.inMap : packing.outMap);
    const inMap = map(packing.transpose ? packing.outMap : packing.inMap);

    let quadsBefore = 0;
    for (const name of packing.names) {
      const tensor = this.#stored(name);
      const stored = packable(tensor);
      const [rows, columns] = tensor.shape as [number, number];
      const outs = packing.names.length > 1 ? rows : packing.outs;
      const blocks = quads(outs) * packing.taps * quads(packing.ins);
      const rowStride = columns * packing.taps;
      const call = kernelCall(packMatrix, {
        bind: { raw: null, out_map: null, in_map: null, blocks: null },
        sizes: {
          OUTS: outs,
          INS: packing.ins,
          TAPS: packing.taps,
          OUT_STRIDE: packing.transpose ? packing.taps : rowStride,
          IN_STRIDE: packing.transpose ? rowStride : packing.taps,
          FIRST_BLOCK: quadsBefore * packing.taps * quads(packing.ins),
        },
        switches: {
          FORMAT: FORMATS[stored.dtype as keyof typeof FORMATS],
          FLIP: packing.flip,
          OUT_MAPPED: outMap !== null,
          IN_MAPPED: inMap !== null,
        },
        grid: lineGrid(blocks, 64),
        cost: { flops: 0, bytes: blocks * 128 },
      });
      uploads.pack(call, { raw: uploads.add(name, stored.bytes), out_map: outMap, in_map: inMap, blocks: place });
      quadsBefore += quads(outs);
    }
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#runtime.buffers.destroy(buffer);
    this.#buffers.length = 0;
    this.#packed.clear();
    this.#bytes = 0;
  }
}

/** Raw checkpoint bytes on their way through the packing kernel: freed as soon as the GPU has read them. */
class Uploads {
  readonly #runtime: Runtime;
  #buffers: GPUBuffer[] = [];
  #calls: BoundCall[] = [];
  bytes = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  add(label: string, bytes: Uint8Array): Binding {
    const size = Math.max(16, Math.ceil(bytes.byteLength / 4) * 4);
    const buffer = this.#runtime.buffers.create(label, size, GPUBufferUsage.STORAGE, true);
    new Uint8Array(buffer.getMappedRange()).set(bytes);
    buffer.unmap();
    this.#buffers.push(buffer);
    this.bytes += size;
    return { buffer, offset: 0, size };
  }

  pack(call: KernelCall, bindings: BoundCall['bindings']): void {
    this.#calls.push({ call, bindings });
  }

  async flush(): Promise<void> {
    try {
      await runOnce(this.#runtime, this.#calls);
    } finally {
      for (const buffer of this.#buffers) this.#runtime.buffers.destroy(buffer);
      this.#buffers = [];
      this.#calls = [];
      this.bytes = 0;
    }
  }
}
