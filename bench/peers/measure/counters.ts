/**
 * @file Counts what a library asks of WebGPU, whatever the library: the prototypes' methods are wrapped before it starts.
 */
export interface Counts {
  dispatches: number;
  submits: number;
  passes: number;
  bindGroups: number;
  pipelines: number;
  buffers: number;
  /** Of buffers made and not yet destroyed. Those left to the garbage collector count as held. */
  heldBytes: number;
}

const counts: Counts = {
  dispatches: 0,
  submits: 0,
  passes: 0,
  bindGroups: 0,
  pipelines: 0,
  buffers: 0,
  heldBytes: 0,
};

const devices = new Set<GPUDevice>();
const errors: string[] = [];
let adapter = '';

type Method = (this: unknown, ...args: unknown[]) => unknown;

function after(type: string, method: string, note: (self: unknown, result: unknown) => void): void {
  const prototype = (globalThis as unknown as Record<string, { prototype: Record<string, Method> } | undefined>)[type]
    ?.prototype;
  const original = prototype?.[method];
  if (!prototype || !original) return;
  prototype[method] = function (...args) {
    const result = original.apply(this, args);
    note(this, result);
    return result;
  };
}

export function install(): void {
  const counting = (type: string, method: string, name: keyof Counts) => {
    after(type, method, () => {
      counts[name]++;
    });
  };
  counting('GPUComputePassEncoder', 'dispatchWorkgroups', 'dispatches');
  counting('GPUComputePassEncoder', 'dispatchWorkgroupsIndirect', 'dispatches');
  counting('GPUQueue', 'submit', 'submits');
  counting('GPUCommandEncoder', 'beginComputePass', 'passes');
  counting('GPUDevice', 'createBindGroup', 'bindGroups');
  counting('GPUDevice', 'createComputePipeline', 'pipelines');
  counting('GPUDevice', 'createComputePipelineAsync', 'pipelines');
  const held = new WeakMap<object, number>();
  after('GPUDevice', 'createBuffer', (_device, buffer) => {
    const { size } = buffer as GPUBuffer;
    counts.buffers++;
    counts.heldBytes += size;
    held.set(buffer as GPUBuffer, size);
  });
  after('GPUBuffer', 'destroy', (buffer) => {
    counts.heldBytes -= held.get(buffer as GPUBuffer) ?? 0;
    held.delete(buffer as GPUBuffer);
  });
  after('GPUAdapter', 'requestDevice', (self, made) => {
    const { vendor, architecture, device, description } = (self as GPUAdapter).info;
    adapter = description || device || `${vendor} ${architecture}`.trim();
    void (made as Promise<GPUDevice>).then((found) => {
      devices.add(found);
      found.addEventListener('uncapturederror', (event) =>
        errors.push((event as GPUUncapturedErrorEvent).error.message),
      );
      void found.lost.then(({ reason, message }) => {
        if (reason !== 'destroyed') errors.push(`device lost: ${message}`);
      });
    });
  });
}

export const snapshot = (): Counts => ({ ...counts });

/** What happened between two snapshots; bytes as they are at the second. */
export function between(before: Counts, later: Counts): Counts {
  const difference = { ...later };
  for (const name of Object.keys(counts) as (keyof Counts)[]) {
    if (name !== 'heldBytes') difference[name] -= before[name];
  }
  return difference;
}

/** Resolves when every queue of every device is done. */
export async function queuesDone(): Promise<void> {
  for (const device of devices) await device.queue.onSubmittedWorkDone();
}

/** In the adapter's own words where it has any. */
export const adapterName = (): string => adapter;

/** What devices complained about since the last call: a result after that is worth nothing. */
export const takeErrors = (): string[] => errors.splice(0);
