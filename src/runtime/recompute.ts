/**
 * @file Trades work for memory: rewrites a dispatch list so that its tensors fit into a given number of bytes.
 *
 * A gradient reads what the forward pass left, from the last layer to the first, so at the turn nearly all of it is alive.
 * A tensor that is not read for long can be given up and made again from what it was made of, down to a whole run of
 * layers. Calls are values, so making one again is the same call bound to new tensors: the same kernel on the same data,
 * and the same bits.
 *
 * The list is gone through once, as if it ran in so much memory. Where a call does not fit, the tensor goes that is
 * cheapest to make again for the bytes and the time that it frees: dynamic tensor rematerialization (Kirisame et al.
 * 2021), but with the next use known instead of guessed from the last.
 */
import type { Tensor } from './resources.ts';
import type { Cost, KernelCall } from './shader.ts';

/** Calls that are made again together: one, or those from the first to the last that write a tensor. */
interface Unit {
  readonly from: number;
  readonly to: number;
  /** Tensors that it needs from before. */
  readonly reads: readonly Tensor[];
  readonly writes: readonly Tensor[];
  readonly work: number;
  /** The call up to which it can be made again: the first that changes something it was made of. */
  readonly until: number;
}

/** A list longer than this many times the given one is not worth its memory. */
const MAX_GROWTH = 4;

/** Comparable work of a call, in operations: a byte of storage traffic counts as several of them. */
const workOf = ({ flops, bytes }: Cost): number => flops + 8 * bytes;

/**
 * @param kept tensors with a buffer of their own, which are there all the time and not in `budget`
 * @param persistent those among them that the host writes, or that calls change in place
 * @param budget bytes for all others
 * @returns the list with calls made again where they are needed, or null if no way was found
 */
export function recompute<C extends KernelCall>(
  calls: readonly C[],
  kept: ReadonlySet<Tensor>,
  persistent: ReadonlySet<Tensor>,
  budget: number,
): readonly C[] | null {
  const units = unitsOf(calls, persistent);
  const producer = new Map<Tensor, number>();
  const uses = new Map<Tensor, number[]>();
  units.forEach(({ reads, writes }, u) => {
    for (const t of writes) producer.set(t, u);
    for (const t of reads) uses.set(t, [...(uses.get(t) ?? []), u]);
  });

  const made: C[] = [];
  /** What stands for a tensor at the moment; a tensor that is not here must be made again to be read. */
  const present = new Map<Tensor, Tensor>();
  const pins = new Map<Tensor, number>();
  let live = 0;
  let now = 0;
  const nextUse = (t: Tensor): number => uses.get(t)?.find((u) => u >= now) ?? Number.POSITIVE_INFINITY;
  const pin = (t: Tensor, by: 1 | -1) => pins.set(t, (pins.get(t) ?? 0) + by);
  const isPinned = (t: Tensor) => (pins.get(t) ?? 0) > 0;
  const dropUnused = (tensors: Iterable<Tensor>) => {
    for (const t of tensors) {
      if (present.has(t) && !isPinned(t) && nextUse(t) === Number.POSITIVE_INFINITY) drop(t);
    }
  };
  const drop = (t: Tensor) => {
    present.delete(t);
    live -= t.bytes;
  };

  /** Work of making `t` again, with all that is missing for it. */
  const workFor = (t: Tensor): number => {
    const seen = new Set<number>();
    const visit = (tensor: Tensor): number => {
      const u = producer.get(tensor)!;
      if (seen.has(u)) return 0;
      seen.add(u);
      const { reads, work } = units[u]!;
      return reads.reduce((sum, r) => (kept.has(r) || present.has(r) ? sum : sum + visit(r)), work);
    };
    return visit(t);
  };

  /** Gives tensors up until `bytes` more fit; false if they never do. */
  const makeRoom = (bytes: number): boolean => {
    while (live + bytes > budget) {
      let best: Tensor | null = null;
      let least = Number.POSITIVE_INFINITY;
      for (const t of present.keys()) {
        const next = nextUse(t);
        if (isPinned(t) || next === Number.POSITIVE_INFINITY) continue;
        if (units[producer.get(t)!]!.until < units[next]!.from) continue;
        const price = workFor(t) / (t.bytes * (next - now + 1));
        if (price < least) {
          least = price;
          best = t;
        }
      }
      if (!best) return false;
      drop(best);
    }
    return true;
  };

  /** Appends the calls of a unit, the tensors it needs made first. */
  const append = (u: number, again: boolean): boolean => {
    const { from, to, reads, writes } = units[u]!;
    const needed = reads.filter((t) => !kept.has(t));
    // What is there must not go while what is missing is made.
    for (const t of needed) pin(t, 1);
    for (const t of needed) if (!present.has(t) && !append(producer.get(t)!, true)) return false;
    if (made.length > MAX_GROWTH * calls.length) return false;
    const fresh = new Map(writes.filter((t) => again || !kept.has(t)).map((t) => [t, again ? { ...t } : t]));
    if (!makeRoom([...fresh.keys()].reduce((sum, t) => sum + t.bytes, 0))) return false;
    const instanceOf = (t: Tensor) => fresh.get(t) ?? present.get(t) ?? t;
    for (const call of calls.slice(from, to + 1)) {
      const bind = Object.entries(call.bind).map(
        ([name, r]) => [name, r.kind === 'tensor' ? instanceOf(r) : r] as const,
      );
      made.push({ ...call, bind: Object.fromEntries(bind) });
    }
    for (const [t, instance] of fresh) {
      // Made along with what was wanted, but there already.
      if (kept.has(t) || present.has(t)) continue;
      present.set(t, instance);
      live += t.bytes;
    }
    for (const t of needed) pin(t, -1);
    dropUnused([...needed, ...fresh.keys()]);
    return true;
  };

  for (let u = 0; u < units.length; u++) {
    now = u;
    if (!append(u, false)) return null;
    now = u + 1;
    dropUnused([...present.keys()]); // with what this unit was the last to use
  }
  return made;
}

/**
 * The list in units. A tensor is a value once its last writer is done, so all of its writers are in one; what the host or
 * an operation changes in place (`persistent`) is no value, and nothing can be made again across a change of it.
 */
function unitsOf(calls: readonly KernelCall[], persistent: ReadonlySet<Tensor>): Unit[] {
  const touched = calls.map(({ shader, bind }) => {
    const bound = shader.bindings.flatMap(({ name, access }) => {
      const resource = bind[name];
      return resource?.kind === 'tensor' ? [{ tensor: resource, access }] : [];
    });
    const those = (wanted: string) => bound.flatMap(({ tensor, access }) => (access === wanted ? [tensor] : []));
    return { read: those('read'), written: those('read_write') };
  });
  const writers = new Map<Tensor, number[]>();
  touched.forEach(({ written }, i) => {
    for (const t of written) writers.set(t, [...(writers.get(t) ?? []), i]);
  });

  const lastOf = calls.map((_, i) => i);
  for (const [tensor, all] of writers) {
    if (!persistent.has(tensor)) lastOf[all[0]!] = Math.max(lastOf[all[0]!]!, all.at(-1)!);
  }
  const units: Unit[] = [];
  const untilOf = new Map<Tensor, number>();
  for (let from = 0; from < calls.length; ) {
    let to = from;
    for (let i = from; i <= to; i++) to = Math.max(to, lastOf[i]!);
    const inside = touched.slice(from, to + 1);
    const writes = new Set(inside.flatMap(({ written }) => written));
    const reads = new Set(inside.flatMap(({ read }) => read).filter((t) => !writes.has(t) || persistent.has(t)));
    let until = [...writes].some((t) => persistent.has(t)) ? -1 : Number.POSITIVE_INFINITY;
    for (const t of reads) {
      const limit = persistent.has(t) ? writers.get(t)?.find((i) => i > to) : untilOf.get(t);
      until = Math.min(until, limit ?? Number.POSITIVE_INFINITY);
    }
    for (const t of writes) untilOf.set(t, until);
    const work = calls.slice(from, to + 1).reduce((sum, { cost }) => sum + workOf(cost), 0);
    units.push({ from, to, reads: [...reads], writes: [...writes], work, until });
    from = to + 1;
  }
  return units;
}
