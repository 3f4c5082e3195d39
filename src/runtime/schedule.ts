/**
 * @file Turns an operation list into a dispatch list with slots: which tensors live when, and which may share a buffer.
 *
 * Pure arithmetic, no device: `inspect` and the tests use it as it is. A slot is a buffer that serves one tensor after
 * another. WebGPU forbids a buffer to be read and written in one dispatch, so a tensor that is written never shares the
 * slot of one that is read by the same dispatch.
 */
import type { Graph, Operation } from './graph.ts';
import type { Tensor } from './resources.ts';
import type { Grid, KernelCall } from './shader.ts';

export interface ScheduledCall extends KernelCall {
  /** The operation it belongs to. */
  readonly operation: string;
}

export interface Schedule {
  readonly calls: readonly ScheduledCall[];
  /** Slot sizes in bytes. */
  readonly slots: readonly number[];
  readonly slotOf: ReadonlyMap<Tensor, number>;
  /** Tensors with a buffer of their own: inputs, state and the outputs asked for. */
  readonly own: readonly Tensor[];
  /** Bytes of slots and own buffers together: what the plan allocates for activations. */
  readonly bytes: number;
  /** The largest sum of tensors alive at once, own ones included: what no plan could go below. */
  readonly liveBytes: number;
}

/** @param outputs tensors whose values the host will read */
export function schedule(graph: Graph, outputs: readonly Tensor[]): Schedule {
  const calls = needed(graph.operations, outputs).flatMap((operation) =>
    operation.lower().map((call) => ({ ...call, operation: operation.name })),
  );
  const own = new Set<Tensor>(outputs);
  const first = new Map<Tensor, number>();
  const last = new Map<Tensor, number>();
  calls.forEach((call, index) => {
    for (const tensor of tensorsOf(call)) {
      if (graph.persistent.has(tensor)) own.add(tensor);
      if (!first.has(tensor)) first.set(tensor, index);
      last.set(tensor, index);
    }
  });
  checkOrder(calls, graph.persistent);

  const slots: number[] = [];
  const slotOf = new Map<Tensor, number>();
  const free: number[] = [];
  let ownBytes = 0;
  for (const tensor of own) ownBytes += tensor.bytes;
  let live = ownBytes;
  let liveBytes = live;
  calls.forEach((call, index) => {
    const here = tensorsOf(call).filter((tensor) => !own.has(tensor));
    for (const tensor of here) {
      if (first.get(tensor) !== index) continue;
      live += tensor.bytes;
      slotOf.set(tensor, takeSlot(tensor.bytes, slots, free));
    }
    liveBytes = Math.max(liveBytes, live);
    for (const tensor of here) {
      if (last.get(tensor) !== index) continue;
      live -= tensor.bytes;
      free.push(slotOf.get(tensor)!);
    }
  });
  const bytes = ownBytes + slots.reduce((sum, size) => sum + size, 0);
  return { calls, slots, slotOf, own: [...own], bytes, liveBytes };
}

/** Drops operations whose outputs nobody reads. */
function needed(operations: readonly Operation[], outputs: readonly Tensor[]): Operation[] {
  const wanted = new Set<Tensor>(outputs);
  const kept: Operation[] = [];
  for (const operation of [...operations].reverse()) {
    if (!operation.updates?.length && !operation.outputs.some((t) => wanted.has(t))) continue;
    for (const tensor of operation.inputs) wanted.add(tensor);
    kept.push(operation);
  }
  return kept.reverse();
}

/** Every tensor a call touches, each once. */
function tensorsOf(call: KernelCall): Tensor[] {
  const tensors = new Set<Tensor>();
  for (const resource of Object.values(call.bind)) if (resource.kind === 'tensor') tensors.add(resource);
  return [...tensors];
}

/** The smallest free slot that fits; else the largest one, grown; else a new one. */
function takeSlot(bytes: number, slots: number[], free: number[]): number {
  let best = -1;
  for (let i = 0; i < free.length; i++) {
    const size = slots[free[i]!]!;
    const bestSize = best < 0 ? -1 : slots[free[best]!]!;
    const fits = size >= bytes;
    if (best < 0 || (fits ? bestSize < bytes || size < bestSize : bestSize < bytes && size > bestSize)) best = i;
  }
  if (best < 0) return slots.push(bytes) - 1;
  const [slot] = free.splice(best, 1);
  slots[slot!] = Math.max(slots[slot!]!, bytes);
  return slot!;
}

/** A mistake in a layer's `lower`, caught before it becomes wrong numbers. */
function checkOrder(calls: readonly ScheduledCall[], persistent: ReadonlySet<Tensor>): void {
  const written = new Set<Tensor>(persistent);
  for (const { shader, bind, operation, grid } of calls) {
    const touched = new Map<Tensor, string>();
    for (const { name, access } of shader.bindings) {
      const resource = bind[name];
      if (resource?.kind !== 'tensor') continue;
      const before = touched.get(resource);
      if (before !== undefined && (access === 'read_write' || before === 'read_write')) {
        throw new Error(`${operation}: ${shader.name} binds ${resource.name} twice, once for writing`);
      }
      touched.set(resource, access);
      if (access === 'read' && !written.has(resource)) {
        throw new Error(`${operation}: ${shader.name} reads ${resource.name} before anything wrote it`);
      }
    }
    for (const [tensor, access] of touched) if (access === 'read_write') written.add(tensor);
    checkGrid(grid, `${operation}: ${shader.name}`);
  }
}

function checkGrid(grid: Grid, where: string): void {
  if (grid.some((count) => !Number.isInteger(count) || count < 1 || count > 65535)) {
    throw new Error(`${where}: a grid must hold 1 to 65535 workgroups a dimension, found ${grid.join(' x ')}`);
  }
}
