/**
 * @file A GPUDevice and what we keep with it. A runtime can be built on anybody's device; it never destroys one it did
 * not ask for.
 */
import { Buffers } from './buffers.ts';
import { cpuDivision, type DivisionRule, GPU_DIVISION } from './divide.ts';
import { DeviceError } from './errors.ts';
import type { Target } from './graph.ts';
import { Pipelines } from './pipelines.ts';
import { browserStore, shippedTable } from './shipped_tuning.ts';
import { noteSubgroupMatrix, SUBGROUP_MATRIX_FEATURE, subgroupMatrixOfDevice } from './subgroup_matrix.ts';
import { SubmitPacer } from './submit.ts';
import { Tuner, type TunerOptions } from './tuner.ts';
import { Tuning } from './tuning.ts';
import type { Accuracy, ForcedVariants } from './variants.ts';

export interface AdapterDescription {
  readonly vendor: string;
  readonly architecture: string;
  /** The adapter's own words where it has any, else vendor and architecture. */
  readonly name: string;
  /** A software adapter: it computes on the CPU. */
  readonly software: boolean;
}

/** Names under which the software implementations of Chrome, Mesa and Windows report themselves. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render|software/i;

export function describeAdapter(info: GPUAdapterInfo): AdapterDescription {
  const { vendor, architecture, device, description } = info;
  const name = description || device || `${vendor} ${architecture}`.trim() || 'unnamed adapter';
  const software =
    info.isFallbackAdapter === true || [vendor, architecture, device, description].some((text) => SOFTWARE.test(text));
  return { vendor, architecture, name, software };
}

/** Limits that are raised to what the adapter offers; all others stay at WebGPU's defaults. */
const RAISED = ['maxStorageBufferBindingSize', 'maxBufferSize', 'maxComputeWorkgroupStorageSize'] as const;

/** Features that kernels can use, asked for where they exist. */
const WANTED = ['timestamp-query', 'shader-f16', 'subgroups', SUBGROUP_MATRIX_FEATURE] as GPUFeatureName[];

export interface DeviceOptions {
  /** Where to ask; by default `navigator.gpu`. In Node see `pilotwave/node`. */
  readonly gpu?: GPU;
  readonly powerPreference?: GPUPowerPreference;
}

/**
 * A device with the adapter's own buffer limits.
 *
 * @throws DeviceError "no-webgpu" if there is no `navigator.gpu`, "no-adapter" if it has no adapter
 */
export async function requestDevice(options: DeviceOptions = {}): Promise<GPUDevice> {
  const gpu = options.gpu ?? globalThis.navigator?.gpu;
  if (!gpu) {
    throw new DeviceError(
      'no-webgpu',
      'this browser has no WebGPU (navigator.gpu is missing); use Chrome or Edge 113, Safari 26 or Firefox 141 and later, on a page served over https or from localhost',
    );
  }
  const adapter = await gpu.requestAdapter({ powerPreference: options.powerPreference ?? 'high-performance' });
  if (!adapter) {
    throw new DeviceError('no-adapter', 'WebGPU is there, but it offers no adapter; see chrome://gpu for the reason');
  }
  return deviceOf(adapter);
}

export async function deviceOf(adapter: GPUAdapter): Promise<GPUDevice> {
  const requiredLimits: Record<string, number> = {};
  for (const name of RAISED) requiredLimits[name] = adapter.limits[name];
  const device = await adapter.requestDevice({
    requiredLimits,
    requiredFeatures: WANTED.filter((feature) => adapter.features.has(feature)),
  });
  noteSubgroupMatrix(device, adapter.info);
  return device;
}

/** Of the machine, as a browser or Node 21 tells it; else a guess. */
const processors = (): number => globalThis.navigator?.hardwareConcurrency ?? 4;

export interface RuntimeOptions {
  /** Variants of kernels to be taken wherever they fit: for tests and comparisons. */
  readonly variants?: ForcedVariants;
  /** The least exact variants that may be taken; `float32` by default, which no shortcut is less exact than. */
  readonly accuracy?: Accuracy;
  /**
   * How variants are chosen. On a GPU they are measured, for two seconds at most a plan, and kept; on a software
   * adapter a shipped table serves, unless `software` asks for measuring there too.
   */
  readonly tuning?: 'off' | (TunerOptions & { readonly software?: boolean });
  /**
   * The kind of adapter whose variants are taken, in place of what the device is: a check of a GPU's choice of kernels where
   * there is no GPU. Tables of measured variants are left out then.
   */
  readonly as?: 'cpu' | 'gpu';
  /** How large a dispatch may be before it is divided, in place of a guess by the kind of adapter. */
  readonly division?: DivisionRule;
}

export class Runtime {
  readonly device: GPUDevice;
  readonly adapter: AdapterDescription;
  readonly target: Target;
  readonly limits: GPUSupportedLimits;
  readonly buffers: Buffers;
  readonly pipelines: Pipelines;
  readonly pacer: SubmitPacer;
  /** How large a dispatch may be. */
  readonly division: DivisionRule;
  #lost: DeviceError | null = null;
  #placeholders: { read: GPUBuffer; write: GPUBuffer } | null = null;

  /** Measures variants of kernels before a plan is made; null where that is off. */
  readonly tuner: Tuner | null;

  /** @param device any device; it stays the caller's */
  constructor(device: GPUDevice, { variants, accuracy, tuning = {}, as, division }: RuntimeOptions = {}) {
    this.device = device;
    this.adapter = describeAdapter(device.adapterInfo);
    const { software, vendor } = this.adapter;
    const own = software ? 'cpu' : 'gpu';
    const kind = as ?? own;
    const table = kind === own ? shippedTable(device.adapterInfo) : undefined;
    const known = new Tuning(table, tuning === 'off' ? undefined : tuning.visitSteps);
    this.target = {
      adapter: kind,
      slowCompiler: software && vendor === 'mesa',
      features: new Set(device.features),
      bindingBytes: Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize),
      workgroupBytes: device.limits.maxComputeWorkgroupStorageSize,
      subgroupMatrix: subgroupMatrixOfDevice(device),
      accuracy,
      variants,
      tuning: known,
    };
    this.limits = device.limits;
    this.buffers = new Buffers(device);
    this.pipelines = new Pipelines(device);
    this.pacer = new SubmitPacer(device);
    this.division = division ?? (software ? cpuDivision(processors()) : GPU_DIVISION);
    const measures = tuning !== 'off' && (!software || tuning.software === true);
    this.tuner = measures ? new Tuner(this, known, { store: browserStore(), ...tuning }) : null;
    void device.lost.then((info) => {
      this.#lost = new DeviceError(
        'device-lost',
        `the GPU device was lost (${info.reason}: ${info.message || 'no message'}); ask for a new device and load the models again`,
      );
    });
  }

  /** @throws DeviceError "device-lost" if the device is gone */
  assertAlive(): void {
    if (this.#lost) throw this.#lost;
  }

  /** What stands in for a binding that a kernel's switches leave unused. Never read, never written. */
  placeholder(
    access: 'read' | 'read_write' | 'uniform',
    index: number,
  ): { buffer: GPUBuffer; offset: number; size: number } {
    this.#placeholders ??= {
      read: this.buffers.create('unused inputs', 256, GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM),
      write: this.buffers.create('unused outputs', 256 * 16, GPUBufferUsage.STORAGE),
    };
    // Writable bindings of one dispatch must not overlap, so each index has a range of its own.
    return access === 'read_write'
      ? { buffer: this.#placeholders.write, offset: 256 * index, size: 256 }
      : { buffer: this.#placeholders.read, offset: 0, size: 256 };
  }

  /**
   * Runs `make` and turns what the device reports about it into errors. `make` is synchronous, so that calls from
   * elsewhere cannot slip between the error scopes.
   *
   * @param doing what is being made, for the message
   */
  async checked<T>(doing: string, make: () => T): Promise<T> {
    this.assertAlive();
    this.device.pushErrorScope('validation');
    this.device.pushErrorScope('out-of-memory');
    let scopes: Promise<(GPUError | null)[]>;
    let result: T;
    try {
      result = make();
    } finally {
      scopes = Promise.all([this.device.popErrorScope(), this.device.popErrorScope()]);
    }
    const [memory, validation] = await scopes;
    this.assertAlive();
    if (memory) throw new DeviceError('out-of-memory', `${doing}: the device is out of memory (${memory.message})`);
    if (validation) throw new DeviceError('validation', `${doing}: ${validation.message}`);
    return result;
  }

  /** Frees every buffer made through this runtime, models and plans included. The device itself is left alone. */
  dispose(): void {
    this.#placeholders = null;
    this.buffers.dispose();
  }
}
