/**
 * @file Parameters: from the tensors of a checkpoint to the buffers that kernels read.
 *
 * A layer asks for its parameters in the layout its kernel wants (`matrix`, `vector`, `table`) and gets a value that
 * describes it. Matrices are packed on the GPU from the checkpoint's own bytes, once for each layout, and shared by all
 * plans of a model.
 */
import packFragments from '../../shaders/subgroup_matrix/pack_fragments.wgsl';
import packMatrix from '../../shaders/weights/pack_matrix.wgsl';
import winogradKernels from '../../shaders/winograd/kernels.wgsl';
import { numbersOf } from '../checkpoints/dtypes.ts';
import type { CheckpointTensor } from '../checkpoints/safetensors.ts';
import { type TensorInfo, tensorBytes } from '../checkpoints/stored.ts';
import type { Runtime } from './device.ts';
import { DeviceError } from './errors.ts';
import { type Binding, type BoundCall, runOnce } from './pipelines.ts';
import { type PackedWeights, quads } from './resources.ts';
import { type KernelCall, kernelCall, lineGrid } from './shader.ts';
import { BLOCK_VECTORS, headVectors, type MatrixFormat, matrixBytes, STORE } from './weight_formats.ts';

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
      readonly format: MatrixFormat;
      /** Matrices for subgroups in place of blocks; null: blocks. Then the format is f16. */
      readonly fragments: Fragments | null;
      /** Kernels of 3 x 3 taps in Winograd's transform for tiles of that many outputs in each direction; 0: as they are. */
      readonly winograd: WinogradTile | 0;
    }
  | {
      readonly layout: 'rows';
      readonly names: readonly string[];
      readonly map: ChannelMap | null;
      readonly transpose: boolean;
    };

/** How matrices for subgroups are cut (shaders/subgroup_matrix/pack_fragments.wgsl). */
export interface Fragments {
  /** Output and input channels of a matrix. */
  readonly n: number;
  readonly k: number;
  /** Input matrices that a kernel takes in a step: their number is filled up to a multiple of it. */
  readonly chunk: number;
}

/** Outputs of a tile in each direction; the transform has two points more. */
export type WinogradTile = 2 | 4;

type MatrixPacking = Extract<Packing, { layout: 'matrix' }>;

export interface MatrixOptions {
  readonly outMap?: ChannelMap | null;
  readonly inMap?: ChannelMap | null;
  readonly transpose?: boolean;
  readonly flip?: boolean;
  /** For kernels that read one format only; by default the one that the parameters have. */
  readonly format?: MatrixFormat;
  /** Transformed kernels [O/4, points, I/4] in the place of 3 x 3 taps; always float32. */
  readonly winograd?: WinogradTile | 0;
  /** Matrices for subgroups in the place of blocks; always float16. */
  readonly fragments?: Fragments | null;
}

/** What a kernel may ask of its weights; the rest is settled by the layer. */
export type KernelLayout = Pick<MatrixOptions, 'format' | 'winograd' | 'fragments'>;

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

/** Matrices for subgroups along the output and the input channels of a tap. */
export const matricesOf = (fragments: Fragments | null, outs: number, ins: number) => ({
  outMatrices: fragments ? Math.ceil(outs / fragments.n) : 0,
  inMatrices: fragments ? Math.ceil(ins / (fragments.k * fragments.chunk)) * fragments.chunk : 0,
});

/** Names and shapes of a model's parameters: enough to build a graph and to cost it, with no value in memory. */
export class WeightShapes {
  readonly #shapes: ReadonlyMap<string, readonly number[]>;
  readonly #formatOf: (names: readonly string[]) => MatrixFormat;

  /** @param formatOf the format in which matrices, stacked, lie on the device */
  constructor(
    shapes: ReadonlyMap<string, readonly number[]>,
    formatOf: (names: readonly string[]) => MatrixFormat = () => 'f32',
  ) {
    this.#shapes = shapes;
    this.#formatOf = formatOf;
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
    const { outMap = null, inMap = null, transpose = false, flip = false, winograd = 0, fragments = null } = options;
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
    if (winograd !== 0 && taps !== 9) throw new Error(`${list.join(', ')}: only 3 x 3 kernels can be transformed`);
    const format = fragments ? 'f16' : winograd === 0 ? (options.format ?? this.#formatOf(list)) : 'f32';
    const points = winograd === 0 ? taps : (winograd + 2) ** 2;
    const cut = fragments ? `${fragments.n} ${fragments.k} ${fragments.chunk}` : '';
    const key = `matrix|${list}|${mapName(outMap)}|${mapName(inMap)}|${transpose}|${flip}|${format}|${winograd}|${cut}`;
    const { outMatrices, inMatrices } = matricesOf(fragments, outs, ins);
    return {
      kind: 'weights',
      source: this,
      key,
      bytes: fragments
        ? 2 * outMatrices * taps * inMatrices * fragments.n * fragments.k
        : matrixBytes(format, quads(outs) * points * quads(ins), quads(transpose ? ins : outs)),
      packing: {
        layout: 'matrix',
        names: list,
        outMap,
        inMap,
        outs,
        ins,
        taps,
        transpose,
        flip,
        format,
        winograd,
        fragments,
      },
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

/**
 * Where parameters come from: a checkpoint in memory, on disk, or on its way through the network. `tensors` is in the order
 * in which they arrive, and they are asked for in that order, so that a stream is read once.
 */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** A tensor's values, little-endian, row-major. */
  read(name: string): Promise<Uint8Array>;
  /** The same into memory that is there already, of the tensor's length. */
  readInto(name: string, target: Uint8Array): Promise<void>;
  close?(): Promise<void>;
}

/** Tensors in memory as a source. */
export function tensorsInMemory(tensors: ReadonlyMap<string, CheckpointTensor>): TensorSource {
  const bytesOf = (name: string) => tensors.get(name)!.bytes;
  return {
    tensors,
    read: async (name) => bytesOf(name),
    readInto: async (name, target) => target.set(bytesOf(name)),
  };
}

/** Raw bytes that may wait on the device at once. */
const MAX_UPLOAD_BYTES = 32 * 2 ** 20;

/** Stored formats that the packing kernel reads. Others become float32 on the way. */
const FORMATS: Readonly<Record<string, number>> = { F32: 0, F16: 1, BF16: 2, I8: 3 };

/** Stored formats that kernels read as they are. */
const KEPT: Readonly<Record<string, MatrixFormat>> = { F16: 'f16', I8: 'int8' };

/** The format of stacked matrices that stay as they are stored. */
export function storedFormat(tensors: ReadonlyMap<string, TensorInfo>, names: readonly string[]): MatrixFormat {
  const dtype = tensors.get(names[0]!)?.dtype ?? 'F32';
  return names.every((name) => tensors.get(name)?.dtype === dtype) ? (KEPT[dtype] ?? 'f32') : 'f32';
}

export interface WeightOptions {
  /**
   * `stored`: matrices of float16 and int8 stay so on the device. `f32`: they are widened, which takes more memory and
   * spares the kernels the conversion. By default, whichever is faster: `f32` on a software adapter, else `stored`.
   */
  readonly storage?: 'stored' | 'f32' | undefined;
}

/** A model's parameters on a device. */
export class Weights extends WeightShapes {
  readonly #runtime: Runtime;
  readonly #source: TensorSource;
  readonly #packed = new Map<string, Binding>();
  readonly #buffers: GPUBuffer[] = [];
  #pending: Promise<unknown> = Promise.resolve();
  #bytes = 0;

  constructor(
    runtime: Runtime,
    source: TensorSource | ReadonlyMap<string, CheckpointTensor>,
    { storage = runtime.target.adapter === 'cpu' ? 'f32' : 'stored' }: WeightOptions = {},
  ) {
    const tensors: ReadonlyMap<string, TensorInfo> = source instanceof Map ? source : (source as TensorSource).tensors;
    const formatOf = (names: readonly string[]) => (storage === 'stored' ? storedFormat(tensors, names) : 'f32');
    super(new Map([...tensors].map(([name, tensor]) => [name, tensor.shape])), formatOf);
    this.#runtime = runtime;
    this.#source = source instanceof Map ? tensorsInMemory(source) : (source as TensorSource);
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
    const order = new Map([...this.#source.tensors.keys()].map((name, i) => [name, i]));
    const position = ({ packing }: PackedWeights) => Math.min(...packing.names.map((name) => order.get(name) ?? 0));
    const inOrder = [...places].sort(([a], [b]) => position(a) - position(b));
    const uploads = new Uploads(this.#runtime);
    try {
      for (const [weights, place] of inOrder) {
        this.#runtime.assertAlive();
        if (weights.packing.layout === 'rows') await this.#writeRows(weights, place);
        else await this.#packMatrix(weights, place, uploads);
        if (uploads.bytes > MAX_UPLOAD_BYTES) await uploads.flush();
      }
      await uploads.flush();
    } catch (error) {
      uploads.dispose();
      this.#forget(places.values());
      throw error;
    }
    for (const [weights, place] of places) this.#packed.set(weights.key, place);
  }

  /** Frees the buffers of a packing that failed. */
  #forget(places: Iterable<Binding>): void {
    for (const buffer of new Set([...places].map((place) => place.buffer))) {
      this.#buffers.splice(this.#buffers.indexOf(buffer), 1);
      this.#bytes -= buffer.size;
      this.#runtime.buffers.destroy(buffer);
    }
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

  #info(name: string): TensorInfo {
    const tensor = this.#source.tensors.get(name);
    if (!tensor) throw new Error(`the model has no parameter ${name}`);
    return tensor;
  }

  async #numbers(name: string): Promise<Float64Array> {
    return numbersOf(this.#info(name).dtype, await this.#source.read(name));
  }

  async #writeRows(weights: PackedWeights, place: Binding): Promise<void> {
    const packing = weights.packing;
    if (packing.layout !== 'rows') return;
    const data = new Float32Array(weights.bytes / 4);
    let at = 0;
    for (const name of packing.names) {
      const values = await this.#numbers(name);
      const { shape } = this.#info(name);
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

  async #packMatrix(weights: PackedWeights, place: Binding, uploads: Uploads): Promise<void> {
    const packing = weights.packing;
    if (packing.layout !== 'matrix') return;
    const map = (channels: ChannelMap | null) => channels && uploads.add('channel map', bytesOf(wholeQuads(channels)));
    const outMap = map(packing.transpose ? packing.inMap : packing.outMap);
    const inMap = map(packing.transpose ? packing.outMap : packing.inMap);

    const unit = BLOCK_VECTORS[packing.format];
    const head = headVectors(packing.format);
    const int8 = packing.format === 'int8';
    const { taps, outs: allOuts, ins, winograd, fragments } = packing;
    const rearranged = winograd !== 0 || fragments !== null;
    const plain = rearranged
      ? uploads.scratch(matrixBytes(packing.format, quads(allOuts) * taps * quads(ins), 0))
      : place;
    let quadsBefore = 0;
    for (const name of packing.names) {
      const tensor = this.#info(name);
      const direct = Object.hasOwn(FORMATS, tensor.dtype);
      const raw = direct
        ? await uploads.fill(name, tensorBytes(tensor), (target) => this.#source.readInto(name, target))
        : uploads.add(name, bytesOf(Float32Array.from(await this.#numbers(name))));
      const factors = tensor.scale === undefined ? null : await this.#scales(tensor);
      const scales = factors && !int8 ? uploads.add(tensor.scale!, bytesOf(factors)) : null;
      const [rows, columns] = tensor.shape as [number, number];
      const outs = packing.names.length > 1 ? rows : packing.outs;
      const blocks = quads(outs) * packing.taps * quads(packing.ins);
      const rowStride = columns * packing.taps;
      const call = kernelCall(packMatrix, {
        bind: { raw: null, out_map: null, in_map: null, scales: null, blocks: null },
        sizes: {
          OUTS: outs,
          INS: packing.ins,
          TAPS: packing.taps,
          OUT_STRIDE: packing.transpose ? packing.taps : rowStride,
          IN_STRIDE: packing.transpose ? rowStride : packing.taps,
          ROW: rowStride,
          FIRST: head + unit * quadsBefore * packing.taps * quads(packing.ins),
          FLIP: Number(packing.flip),
          OUT_MAPPED: Number(outMap !== null),
          IN_MAPPED: Number(inMap !== null),
        },
        switches: { FORMAT: direct ? FORMATS[tensor.dtype]! : FORMATS['F32']!, STORE: STORE[packing.format] },
        grid: lineGrid(blocks * unit, 64),
        cost: { flops: 0, bytes: blocks * 128 },
      });
      uploads.pack(call, { raw, out_map: outMap, in_map: inMap, scales, blocks: plain });
      if (int8) this.#writeScales(packing, factors!, place, quadsBefore);
      quadsBefore += quads(outs);
    }
    const channels = { OUT_QUADS: quads(allOuts), IN_QUADS: quads(ins) };
    if (fragments) {
      const { outMatrices, inMatrices } = matricesOf(fragments, allOuts, ins);
      const cut = kernelCall(packFragments, {
        bind: { blocks: null, fragments: null },
        sizes: { ...channels, TAPS: taps, OUT_MATRICES: outMatrices, IN_MATRICES: inMatrices },
        tiles: { N: fragments.n, K: fragments.k },
        grid: lineGrid((outMatrices * taps * inMatrices * fragments.n * fragments.k) / 4, 64),
        cost: { flops: 0, bytes: plain.size + place.size },
      });
      uploads.pack(cut, { blocks: plain, fragments: place });
    }
    if (winograd === 0) return;
    const transform = kernelCall(winogradKernels, {
      bind: { blocks: null, transformed: null },
      sizes: { ...channels, TILE: winograd },
      grid: lineGrid(4 * channels.OUT_QUADS * channels.IN_QUADS, 64),
      cost: { flops: 0, bytes: plain.size + place.size },
    });
    uploads.pack(transform, { blocks: plain, transformed: place });
  }

  /** Head and scales of an int8 matrix, in the order of its packed channels. */
  #writeScales(packing: MatrixPacking, factors: Float32Array, place: Binding, quadsBefore: number): void {
    const { outMap, transpose, taps } = packing;
    const [outQuads, inQuads] = [quads(packing.outs), quads(packing.ins)];
    const start = 1 + outQuads * taps * inQuads;
    const channels = outMap?.length ?? factors.length;
    const rows = new Float32Array(4 * quads(channels));
    for (let i = 0; i < channels; i++) rows[i] = 127 * (factors[outMap ? outMap[i]! : i] ?? 0);
    const head = Uint32Array.of(transpose ? inQuads : taps * inQuads, start, Number(transpose), 0);
    const { queue } = this.#runtime.device;
    queue.writeBuffer(place.buffer, place.offset, head);
    queue.writeBuffer(place.buffer, place.offset + 16 * (start + quadsBefore), rows);
  }

  /** The factors of an int8 tensor, as float32. */
  async #scales({ scale, shape }: TensorInfo): Promise<Float32Array> {
    // The scale is no parameter of its own, so the source's list does not have it.
    const values = numbersOf('F32', await this.#source.read(scale!));
    if (values.length !== shape[0]) throw new Error(`${scale} should have ${shape[0]} factors, found ${values.length}`);
    return Float32Array.from(values);
  }

  dispose(): void {
    this.#source.close?.().catch(() => {}); // nothing is read any more, so nothing is lost
    for (const buffer of this.#buffers) this.#runtime.buffers.destroy(buffer);
    this.#buffers.length = 0;
    this.#packed.clear();
    this.#bytes = 0;
  }
}

/** A channel map with -1 for what its last quad has too many. */
function wholeQuads(map: ChannelMap): Int32Array {
  const padded = new Int32Array(4 * quads(map.length)).fill(-1);
  padded.set(map);
  return padded;
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** Raw checkpoint bytes on their way through the packing kernel: freed as soon as the GPU has read them. */
class Uploads {
  readonly #runtime: Runtime;
  #buffers: GPUBuffer[] = [];
  #calls: BoundCall[] = [];
  /** Tensors that wait already: one that is packed in two ways is uploaded once. */
  #waiting = new Map<string, Binding>();
  bytes = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  add(label: string, bytes: Uint8Array): Binding {
    const { binding, target } = this.#buffer(label, bytes.byteLength);
    target.set(bytes);
    binding.buffer.unmap();
    return binding;
  }

  /** Lets `write` put bytes straight into memory that goes to the device. */
  async fill(name: string, length: number, write: (target: Uint8Array) => Promise<void>): Promise<Binding> {
    const there = this.#waiting.get(name);
    if (there) return there;
    const { binding, target } = this.#buffer(name, length);
    await write(target);
    binding.buffer.unmap();
    this.#waiting.set(name, binding);
    return binding;
  }

  /** Memory of the device between two kernels. */
  scratch(size: number): Binding {
    const buffer = this.#runtime.buffers.create('kernels to transform', size, GPUBufferUsage.STORAGE);
    this.#buffers.push(buffer);
    this.bytes += size;
    return { buffer, offset: 0, size };
  }

  #buffer(label: string, length: number): { binding: Binding; target: Uint8Array } {
    const size = Math.max(16, Math.ceil(length / 4) * 4);
    const buffer = this.#runtime.buffers.create(label, size, GPUBufferUsage.STORAGE, true);
    this.#buffers.push(buffer);
    this.bytes += size;
    return {
      binding: { buffer, offset: 0, size },
      target: new Uint8Array(buffer.getMappedRange()).subarray(0, length),
    };
  }

  pack(call: KernelCall, bindings: BoundCall['bindings']): void {
    this.#calls.push({ call, bindings });
    this.#runtime.pipelines.get(call).catch(() => {}); // asked for now, waited for in flush()
  }

  async flush(): Promise<void> {
    try {
      await runOnce(this.#runtime, this.#calls);
    } finally {
      this.dispose();
    }
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#runtime.buffers.destroy(buffer);
    this.#buffers = [];
    this.#calls = [];
    this.#waiting.clear();
    this.bytes = 0;
  }
}
