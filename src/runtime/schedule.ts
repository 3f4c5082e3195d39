/**
 * @file Turns an operation list into a dispatch list with slots: which tensors live when, and which may share a buffer.
 *
 * Pure arithmetic, no device: `inspect` and the tests use it as it is. A slot is a buffer that serves many tensors, one
 * after another and side by side. WebGPU forbids a buffer to be read and written in one dispatch, so a tensor that is
 * written never shares a slot with one that the same dispatch reads.
 */

import findNonfinite from '../../shaders/debug/find_nonfinite.wgsl';
import { OptionError } from './errors.ts';
import type { Graph } from './graph.ts';
import { readingParts } from './joined_reads.ts';
import { recompute } from './recompute.ts';
import type { Tensor } from './resources.ts';
import { type Grid, type KernelCall, kernelCall, lineGrid } from './shader.ts';
import type { Choice } from './variants.ts';

/** Words that one invocation of the check looks at; its RUN. */
const WORDS_A_CHECK = 64;

export interface ScheduledCall extends KernelCall {
  /** The operation it belongs to, and the layer that this belongs to. */
  readonly operation: string;
  readonly layer: string;
  /** Of the operation, where there was more than one way. */
  readonly choice?: Choice | undefined;
}

/** Where a tensor lies while it lives. */
export interface Place {
  readonly slot: number;
  readonly offset: number;
}

export interface Schedule {
  readonly calls: readonly ScheduledCall[];
  /** Slot sizes in bytes. */
  readonly slots: readonly number[];
  readonly placeOf: ReadonlyMap<Tensor, Place>;
  /** Tensors with a buffer of their own: inputs, state and the outputs asked for. */
  readonly own: readonly Tensor[];
  /** Bytes of slots and own buffers together: what the plan allocates for activations. */
  readonly bytes: number;
  /** The largest sum of tensors alive at once, own ones included: what no plan could go below. */
  readonly liveBytes: number;
  /** How many of the calls compute anew what an earlier one did, to stay within a budget. */
  readonly recomputed: number;
  /** With checks for NaN and infinity: a word for each call, 1 where it wrote one. */
  readonly flags?: Tensor;
}

export interface ScheduleOptions {
  /**
   * Bytes that the plan may allocate for activations, inputs and outputs included. What does not fit is computed anew
   * where it is read again, with the same results, for more dispatches.
   */
  readonly memoryBudget?: number | undefined;
}

/**
 * @param outputs tensors whose values the host will read
 * @throws OptionError if no way was found to stay within the budget
 */
export function schedule(
  graph: Graph,
  outputs: readonly Tensor[],
  { memoryBudget = Number.POSITIVE_INFINITY }: ScheduleOptions = {},
): Schedule {
  const calls = needed(graph, outputs);
  const own = new Set<Tensor>(outputs);
  for (const call of calls) for (const tensor of tensorsOf(call)) if (graph.persistent.has(tensor)) own.add(tensor);
  const plain = placed(calls, own, graph.persistent);
  if (plain.bytes <= memoryBudget) return plain;
  const within = fitted(plain, calls, own, graph.persistent, memoryBudget);
  if (within) return within;
  const counted = (bytes: number) => `${Math.floor(bytes).toLocaleString('en')} bytes`;
  throw new OptionError(
    `memoryBudget is ${counted(memoryBudget)}, and no way was found to run this plan in less than ${counted(
      leastBytes(plain, calls, own, graph.persistent),
    )} of activations; without a budget it takes ${counted(plain.bytes)}. Use a larger budget or a smaller batch`,
  );
}

/** A schedule of calls in the given order. */
function placed(calls: readonly ScheduledCall[], own: ReadonlySet<Tensor>, persistent: ReadonlySet<Tensor>): Schedule {
  const first = new Map<Tensor, number>();
  const last = new Map<Tensor, number>();
  calls.forEach((call, index) => {
    for (const tensor of tensorsOf(call)) {
      if (!first.has(tensor)) first.set(tensor, index);
      last.set(tensor, index);
    }
  });
  checkOrder(calls, persistent);

  const lives = [...first.keys()]
    .filter((tensor) => !own.has(tensor))
    .map((tensor) => ({ tensor, from: first.get(tensor)!, to: last.get(tensor)! }));
  const { slots, placeOf } = assignPlaces(lives, conflicts(calls));
  const ownBytes = bytesOf(own);
  const bytes = ownBytes + slots.reduce((sum, size) => sum + size, 0);
  const liveBytes = ownBytes + largestLiveSet(lives, calls.length);
  return { calls, slots, placeOf, own: [...own], bytes, liveBytes, recomputed: 0 };
}

const bytesOf = (tensors: Iterable<Tensor>): number => [...tensors].reduce((sum, { bytes }) => sum + bytes, 0);

/** Tries to find a list that fits when it is placed: slots take somewhat more than what is alive. */
const FITTING_TRIES = 8;

/** The schedule with calls made again so that it takes at most `budget` bytes, or null if none was found. */
function fitted(
  plain: Schedule,
  calls: readonly ScheduledCall[],
  own: ReadonlySet<Tensor>,
  persistent: ReadonlySet<Tensor>,
  budget: number,
): Schedule | null {
  const ownBytes = bytesOf(own);
  let live = Math.min(budget, plain.liveBytes) - ownBytes;
  for (let i = 0; i < FITTING_TRIES; i++) {
    const found = recompute(calls, own, persistent, live);
    if (!found) return null;
    const made = placed(found, own, persistent);
    if (made.bytes <= budget) return { ...made, recomputed: found.length - calls.length };
    live *= Math.min(0.99, (budget - ownBytes) / (made.bytes - ownBytes));
  }
  return null;
}

/** About the smallest budget that can be met. */
function leastBytes(
  plain: Schedule,
  calls: readonly ScheduledCall[],
  own: ReadonlySet<Tensor>,
  persistent: ReadonlySet<Tensor>,
): number {
  let [none, some] = [0, plain.bytes];
  while (some - none > plain.bytes / 100) {
    const middle = (none + some) / 2;
    const made = fitted(plain, calls, own, persistent, middle);
    if (made) some = made.bytes;
    else none = middle;
  }
  return some;
}

/** The calls between which a tensor lives: from its first use to its last, both included. */
interface Life {
  readonly tensor: Tensor;
  readonly from: number;
  readonly to: number;
}

/** For each tensor, those that must not share its buffer: one of the two is written where the other is read. */
function conflicts(calls: readonly ScheduledCall[]): Map<Tensor, Set<Tensor>> {
  const pairs = new Map<Tensor, Set<Tensor>>();
  const note = (a: Tensor, b: Tensor) => {
    const set = pairs.get(a);
    if (set) set.add(b);
    else pairs.set(a, new Set([b]));
  };
  for (const { shader, bind } of calls) {
    const bound = shader.bindings.flatMap(({ name, access }) => {
      const resource = bind[name];
      return resource?.kind === 'tensor' ? [{ tensor: resource, written: access === 'read_write' }] : [];
    });
    for (const a of bound) {
      for (const b of bound) {
        if (a.written && !b.written) {
          note(a.tensor, b.tensor);
          note(b.tensor, a.tensor);
        }
      }
    }
  }
  return pairs;
}

/** Offsets of storage bindings must be multiples of this (WebGPU's default limit). */
const ALIGNMENT = 256;

type Conflicts = ReadonlyMap<Tensor, ReadonlySet<Tensor>>;

const doublings = ({ tensor }: Life): number => Math.floor(Math.log2(tensor.bytes));

/** In which order tensors get their places. None is best for all plans, so all are tried. */
const ORDERS: readonly ((a: Life, b: Life) => number)[] = [
  (a, b) => b.tensor.bytes - a.tensor.bytes,
  (a, b) => doublings(b) - doublings(a) || b.to - b.from - (a.to - a.from),
  (a, b) => b.tensor.bytes * (b.to - b.from + 1) - a.tensor.bytes * (a.to - a.from + 1),
];

/** The places that take the least memory. */
function assignPlaces(lives: readonly Life[], pairs: Conflicts) {
  const total = ({ slots }: { slots: readonly number[] }) => slots.reduce((sum, bytes) => sum + bytes, 0);
  return ORDERS.map((order) => placesInOrder([...lives].sort(order), pairs)).reduce((a, b) =>
    total(b) < total(a) ? b : a,
  );
}

/**
 * Each tensor in turn into the tightest gap that is free for all of its life in a slot without a conflict, or into a new
 * slot of its own size (greedy by size, Pisarchyk & Lee 2020, with more than one arena).
 */
function placesInOrder(lives: readonly Life[], pairs: Conflicts) {
  interface Tenant extends Life {
    readonly offset: number;
    readonly end: number;
  }
  const slots: { readonly bytes: number; readonly tenants: Tenant[] }[] = [];
  const placeOf = new Map<Tensor, Place>();
  for (const life of lives) {
    const size = Math.ceil(life.tensor.bytes / ALIGNMENT) * ALIGNMENT;
    const enemies = pairs.get(life.tensor);
    let best: { slot: number; offset: number; gap: number } | null = null;
    slots.forEach(({ bytes, tenants }, slot) => {
      if (enemies && tenants.some(({ tensor }) => enemies.has(tensor))) return;
      const present = tenants
        .filter((other) => other.from <= life.to && life.from <= other.to)
        .sort((a, b) => a.offset - b.offset);
      let at = 0;
      for (const { offset, end } of [...present, { offset: bytes, end: bytes }]) {
        const gap = offset - at;
        if (gap >= size && (best === null || gap < best.gap)) best = { slot, offset: at, gap };
        at = Math.max(at, end);
      }
    });
    best ??= { slot: slots.push({ bytes: size, tenants: [] }) - 1, offset: 0, gap: size };
    slots[best.slot]!.tenants.push({ ...life, offset: best.offset, end: best.offset + size });
    placeOf.set(life.tensor, { slot: best.slot, offset: best.offset });
  }
  return { slots: slots.map((slot) => slot.bytes), placeOf };
}

function largestLiveSet(lives: readonly Life[], calls: number): number {
  const change = new Float64Array(calls + 1);
  for (const { tensor, from, to } of lives) {
    change[from]! += tensor.bytes;
    change[to + 1]! -= tensor.bytes;
  }
  let live = 0;
  return change.reduce((largest, bytes) => {
    live += bytes;
    return Math.max(largest, live);
  }, 0);
}

/**
 * The calls that lead to `outputs` or change state. What a call reads is asked of the call, not of its operation: a kernel
 * may read what its input was made of, so that nobody needs the input itself.
 */
function needed({ operations, target }: Graph, outputs: readonly Tensor[]): ScheduledCall[] {
  const wanted = new Set<Tensor>(outputs);
  const kept: ScheduledCall[] = [];
  for (const operation of [...operations].reverse()) {
    const state = (operation.updates?.length ?? 0) > 0;
    if (!state && !operation.outputs.some((t) => wanted.has(t))) continue;
    for (const lowered of [...operation.lower()].reverse()) {
      const call = readingParts(lowered, target);
      if (!state && !writtenBy(call).some((t) => wanted.has(t))) continue;
      for (const tensor of tensorsOf(call)) wanted.add(tensor);
      const { name, layer, choice } = operation;
      kept.push({ ...call, operation: name, layer, choice });
    }
  }
  return kept.reverse();
}

const writtenBy = ({ shader, bind }: KernelCall): Tensor[] =>
  shader.bindings.flatMap(({ name, access }) => {
    const resource = bind[name];
    return access === 'read_write' && resource?.kind === 'tensor' ? [resource] : [];
  });

/** Every tensor a call touches, each once. */
function tensorsOf(call: KernelCall): Tensor[] {
  const tensors = new Set<Tensor>();
  for (const resource of Object.values(call.bind)) if (resource.kind === 'tensor') tensors.add(resource);
  return [...tensors];
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

/** The schedule with a check after every call of each tensor that it wrote. */
export function withChecks(made: Schedule): Schedule {
  // Four words a call are enough for its own index and those of the checks of what it wrote.
  const flags: Tensor = { kind: 'tensor', id: -1, name: 'flags', shape: null, bytes: 16 * made.calls.length };
  const calls: ScheduledCall[] = [];
  for (const call of made.calls) {
    const at = calls.push(call) - 1;
    for (const { name, access } of call.shader.bindings) {
      const resource = call.bind[name];
      if (access !== 'read_write' || resource?.kind !== 'tensor') continue;
      const words = resource.bytes / 4;
      const check = kernelCall(findNonfinite, {
        bind: { values: resource, flags },
        sizes: { COUNT: words, CALL: at },
        grid: lineGrid(Math.ceil(words / WORDS_A_CHECK), 64),
        cost: { flops: words, bytes: resource.bytes },
      });
      calls.push({ ...check, operation: `check of ${call.operation}`, layer: call.layer });
    }
  }
  return { ...made, calls, flags, own: [...made.own, flags], bytes: made.bytes + flags.bytes };
}
