/**
 * @file A GPUDevice in Node, through Dawn (the npm package "webgpu"). The only place that knows it.
 */
import { tmpdir } from 'node:os';
import { type AdapterDescription, describeAdapter, deviceOf } from '../runtime/device.ts';
import { DeviceError } from '../runtime/errors.ts';
import { subgroupMatrixOf } from '../runtime/subgroup_matrix.ts';
import { subgroupMatrixWorks } from './matrix_probe.ts';
import {
  browserDriver,
  gpuDeviceFile,
  packagedDriver,
  preloadLoader,
  type SoftwareDriver,
  systemLoader,
} from './vulkan.ts';
import { sleepWhileWaiting } from './waiting.ts';

export interface NodeDevice {
  readonly device: GPUDevice;
  readonly adapter: AdapterDescription;
  /** Where the adapter was found, in words. */
  readonly source: string;
}

/**
 * Which adapter to take. "auto": a GPU, else a software adapter. "gpu" and "software" insist on one of them. Any other
 * text is a part of the adapter's name, in any case.
 */
export type AdapterChoice = 'auto' | 'gpu' | 'software' | (string & {});

/** One way to an adapter: which Vulkan drivers are visible while Dawn looks for it. */
interface Attempt {
  readonly source: string;
  readonly software: boolean;
  /** Set while Dawn looks; null unsets. */
  readonly environment: Readonly<Record<string, string>>;
  /** Called before the attempt. Returns false if there is nothing to try. */
  readonly prepare?: () => boolean;
}

/** Dawn's own object must outlive the devices it gave. */
const kept: GPU[] = [];

export interface NodeDeviceOptions {
  /**
   * Allows Dawn's experimental API, of which kernels use matrices held by a subgroup (accuracy "reduced"): where the adapter
   * has them, and a trial in another process went well. By default false.
   */
  readonly experimental?: boolean;
}

/** Dawn's option that allows it. On NVIDIA's drivers Dawn keeps float16 back, of which such matrices consist. */
const EXPERIMENTAL = 'enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia';

/**
 * @throws DeviceError "no-webgpu" if the package "webgpu" is not installed, "no-adapter" if no adapter fits the choice
 */
export async function requestNodeDevice(
  choice: AdapterChoice = 'auto',
  { experimental = false }: NodeDeviceOptions = {},
): Promise<NodeDevice> {
  const dawn = await loadDawn();
  const seen: string[] = [];
  for (const attempt of attempts()) {
    if (choice === 'gpu' && attempt.software) continue;
    if (choice === 'software' && !attempt.software) continue;
    if (attempt.prepare && !attempt.prepare()) continue;
    const found = await within(attempt.environment, () => tryAdapter(dawn, attempt, choice, experimental, seen));
    if (found) return found;
  }
  const tried = seen.length > 0 ? `found ${[...new Set(seen)].join(', ')}` : 'found none at all';
  const wanted = { auto: 'any adapter', gpu: 'a GPU', software: 'a software adapter' }[choice as string];
  throw new DeviceError(
    'no-adapter',
    `no WebGPU adapter: looked for ${wanted ?? `one named like "${choice}"`}, ${tried}. On Linux, install a Vulkan driver (package mesa-vulkan-drivers 23 or later), Chrome or Chromium, or the npm package @sparticuz/chromium`,
  );
}

interface Dawn {
  create(options: string[]): GPU;
  globals: object;
}

async function loadDawn(): Promise<Dawn> {
  try {
    const dawn = (await import('webgpu')) as unknown as Dawn;
    Object.assign(globalThis, dawn.globals);
    return dawn;
  } catch (error) {
    throw new DeviceError('no-webgpu', 'WebGPU in Node needs the npm package "webgpu"; install it beside pilotwave', {
      cause: error,
    });
  }
}

function* attempts(): Generator<Attempt> {
  if (process.platform !== 'linux') {
    yield { source: 'the system', software: false, environment: {} };
    yield { source: 'the system', software: true, environment: {} };
    return;
  }
  const disabled = [process.env['VK_LOADER_DRIVERS_DISABLE'], '*lvp*', '*swiftshader*'].filter(Boolean).join(',');
  const named = process.env['VK_DRIVER_FILES'] ?? process.env['VK_ICD_FILENAMES'];
  if (systemLoader()) {
    const source = named ? `the driver in ${named}` : 'the system';
    // Without a device file there is no GPU, and asking for one would only make the loader complain.
    const prepare = () => named !== undefined || gpuDeviceFile();
    yield { source, software: false, environment: named ? {} : { VK_LOADER_DRIVERS_DISABLE: disabled }, prepare };
    yield { source, software: true, environment: {} };
  }
  for (const find of [browserDriver, packagedDriver]) {
    let driver: SoftwareDriver | null = null;
    const environment: Record<string, string> = {};
    yield {
      get source() {
        return driver?.source ?? 'SwiftShader';
      },
      software: true,
      environment,
      prepare: () => {
        driver = find();
        if (!driver) return false;
        environment['VK_DRIVER_FILES'] = driver.icd;
        if (!systemLoader()) preloadLoader(driver.loader);
        return true;
      },
    };
  }
}

async function tryAdapter(
  dawn: Dawn,
  attempt: Attempt,
  choice: string,
  experimental: boolean,
  seen: string[],
): Promise<NodeDevice | null> {
  const byName = !['auto', 'gpu', 'software'].includes(choice);
  const options: string[] = experimental ? [EXPERIMENTAL] : [];
  let found = false;
  if (byName) {
    const name = (await adapterNames(dawn)).find((n) => n.toLowerCase().includes(choice.toLowerCase()));
    if (name) options.push(`adapter=${name}`);
    found = name !== undefined;
  }
  const gpu = dawn.create(options);
  let adapter: GPUAdapter | null;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  } catch {
    return null; // Dawn throws where it finds no driver at all
  }
  if (!adapter) return null;
  const description = describeAdapter(adapter.info);
  seen.push(description.name);
  if (description.software !== attempt.software) return null;
  if (byName && !found && !matches(description, choice)) return null;
  const matrix = subgroupMatrixOf(adapter.features, adapter.info);
  if (experimental && matrix && !(await subgroupMatrixWorks(options, matrix))) {
    console.warn(`${description.name}: the driver fails on matrices held by a subgroup, so they are not used`);
    return tryAdapter(dawn, attempt, choice, false, seen);
  }
  kept.push(gpu);
  const device = await deviceOf(adapter);
  if (description.software) sleepWhileWaiting(device);
  return { device, adapter: description, source: attempt.source };
}

const matches = ({ name, vendor, architecture }: AdapterDescription, part: string): boolean =>
  `${name} ${vendor} ${architecture}`.toLowerCase().includes(part.toLowerCase());

/** Names of all adapters. Dawn lists them only in the complaint about one that does not exist. */
async function adapterNames(dawn: Dawn): Promise<string[]> {
  try {
    await dawn.create(['adapter=no such adapter']).requestAdapter();
    return [];
  } catch (error) {
    return [...String(error).matchAll(/name: '([^']+)'/g)].map((match) => match[1]!);
  }
}

/** Runs `work` with environment variables set. The Vulkan loader reads them, so they must be the process's own. */
async function within<T>(environment: Readonly<Record<string, string>>, work: () => Promise<T>): Promise<T> {
  const wanted: Record<string, string> = { ...environment };
  // Mesa and the loader complain without it.
  if (!process.env['XDG_RUNTIME_DIR']) wanted['XDG_RUNTIME_DIR'] = tmpdir();
  const before = Object.fromEntries(Object.keys(wanted).map((name) => [name, process.env[name]]));
  Object.assign(process.env, wanted);
  try {
    return await work();
  } finally {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
