import { describe, expect, test } from 'vitest';
import { accumulate } from '../../src/diffusion/step_operations.ts';
import { add, relu, silu } from '../../src/layers/elementwise.ts';
import { Graph } from '../../src/runtime/graph.ts';
import type { Activation, Tensor } from '../../src/runtime/resources.ts';
import { type Schedule, schedule } from '../../src/runtime/schedule.ts';
import { guidedStep } from '../models.ts';

const target = { adapter: 'cpu', slowCompiler: false } as const;
const shape = { n: 1, c: 4, h: 4, w: 4 };

/** No two living tensors overlap, and no dispatch reads and writes one slot. */
function checkSlots({ calls, slots, placeOf }: Schedule): void {
  const tensors = calls.map(
    (call) => new Set(Object.values(call.bind).filter((r): r is Tensor => r.kind === 'tensor')),
  );
  const life = new Map<Tensor, { from: number; to: number }>();
  tensors.forEach((here, i) => {
    for (const tensor of here) life.set(tensor, { from: life.get(tensor)?.from ?? i, to: i });
  });
  const placed = [...placeOf].map(([tensor, place]) => ({ tensor, ...place, ...life.get(tensor)! }));
  for (const a of placed) {
    expect(a.offset % 256).toBe(0);
    expect(a.offset + a.tensor.bytes).toBeLessThanOrEqual(slots[a.slot]!);
    for (const b of placed) {
      if (a === b || a.slot !== b.slot || a.to < b.from || b.to < a.from) continue;
      const apart = a.offset + a.tensor.bytes <= b.offset || b.offset + b.tensor.bytes <= a.offset;
      expect(apart, `${a.tensor.name} and ${b.tensor.name} overlap`).toBe(true);
    }
  }
  for (const { shader, bind, operation } of calls) {
    const slotsBy = (access: string) =>
      shader.bindings.flatMap(({ name, access: ours }) => {
        const resource = bind[name];
        const place = ours === access && resource?.kind === 'tensor' ? placeOf.get(resource) : undefined;
        return place ? [place.slot] : [];
      });
    const read = slotsBy('read');
    for (const slot of slotsBy('read_write'))
      expect(read, `${operation} reads and writes slot ${slot}`).not.toContain(slot);
  }
}

describe('schedule', () => {
  test('a chain needs two slots, whatever its length', () => {
    const graph = new Graph(target);
    let x: Activation = graph.input('x', shape);
    for (let i = 0; i < 10; i++) x = relu(graph, x);
    const made = schedule(graph, [x]);
    checkSlots(made);
    expect(made.calls.length).toBe(10);
    expect(made.slots.length).toBe(2);
    expect(made.own.map((t) => t.name)).toEqual([x.name, 'x']);
  });

  test('what nobody reads is not computed', () => {
    const graph = new Graph(target);
    const x = graph.input('x', shape);
    const wanted = relu(graph, x);
    silu(graph, silu(graph, x));
    expect(schedule(graph, [wanted]).calls.map((c) => c.shader.name)).toEqual(['elementwise/relu']);
  });

  test('a tensor read late keeps its slot', () => {
    const graph = new Graph(target);
    const x = graph.input('x', shape);
    const early = relu(graph, x);
    let h = early;
    for (let i = 0; i < 4; i++) h = silu(graph, h);
    const made = schedule(graph, [add(graph, h, early)]);
    checkSlots(made);
    expect(made.slots.length).toBe(3);
  });

  test('reading what nothing wrote is caught', () => {
    const graph = new Graph(target);
    const ghost = graph.activation('ghost', shape);
    const y = relu(graph, ghost);
    expect(() => schedule(graph, [y])).toThrow('reads ghost before anything wrote it');
  });

  test('the guided step of the shipped models: sound slots, memory near the least possible', () => {
    const made = schedule(...guidedStep({ batch: 10 }));
    checkSlots(made);
    expect(made.bytes).toBeLessThan(1.3 * made.liveBytes);
  });
});

describe('within a memory budget', () => {
  const bytes = 4 * 4 * 16;

  /** h = silu(relu(x)), something long that does not need it, and at last h again. */
  function early(graph: Graph, x: Activation) {
    const h = silu(graph, relu(graph, x));
    let other: Activation = relu(graph, h);
    for (let i = 0; i < 3; i++) other = add(graph, other, relu(graph, other));
    return { h, y: add(graph, other, h) };
  }

  test('what is not needed for long is made again, with what it was made of', () => {
    const graph = new Graph(target);
    const { y } = early(graph, graph.input('x', shape));
    const names = (made: Schedule) => made.calls.map(({ shader }) => shader.name.replace('elementwise/', ''));
    const plain = schedule(graph, [y]);
    expect(names(plain)).toEqual(['relu', 'silu', 'relu', 'relu', 'add', 'relu', 'add', 'relu', 'add', 'add']);
    expect(plain.recomputed).toBe(0);
    expect(plain.bytes).toBe(6 * bytes);

    const made = schedule(graph, [y], { memoryBudget: 5 * bytes });
    checkSlots(made);
    expect(made.bytes).toBe(5 * bytes);
    expect(names(made)).toEqual([...names(plain).slice(0, -1), 'relu', 'silu', 'add']);
    expect(made.recomputed).toBe(2);
    expect(schedule(graph, [y], { memoryBudget: 6 * bytes })).toEqual(plain);
  });

  test('a budget that cannot be met is refused, with what could be', () => {
    const graph = new Graph(target);
    const { y } = early(graph, graph.input('x', shape));
    expect(() => schedule(graph, [y], { memoryBudget: 4 * bytes })).toThrow(
      /memoryBudget is 1,024 bytes, and no way was found .* less than 1,280 bytes of .* without a budget it takes 1,536 bytes/,
    );
  });

  test('nothing is made again once what it was made of has changed', () => {
    const build = (changed: 'before' | 'after') => {
      const graph = new Graph(target);
      const x = graph.input('x', shape);
      const h = silu(graph, relu(graph, x));
      if (changed === 'before') accumulate(graph, x, h);
      let other: Activation = relu(graph, h);
      for (let i = 0; i < 3; i++) other = add(graph, other, relu(graph, other));
      const y = add(graph, other, h);
      if (changed === 'after') accumulate(graph, x, h);
      return schedule(graph, [y], { memoryBudget: 5 * bytes });
    };
    expect(build('after').recomputed).toBe(2);
    expect(() => build('before')).toThrow('no way was found');
  });

  test('the guided step of the shipped models: sound slots, all operations in place', () => {
    // Without Winograd's tensors, which no recomputing makes smaller.
    const [graph, outputs] = guidedStep({ batch: 10, target: { ...target, variants: { conv2d: 'registers' } } });
    const plain = schedule(graph, outputs);
    const made = schedule(graph, outputs, { memoryBudget: 0.92 * plain.bytes });
    checkSlots(made);
    expect(made.bytes).toBeLessThanOrEqual(0.92 * plain.bytes);
    expect(made.recomputed).toBeGreaterThan(0);
    expect(made.calls.length).toBe(plain.calls.length + made.recomputed);
    const count = (calls: Schedule['calls']) => {
      const counts = new Map<string, number>();
      for (const { operation, layer } of calls) {
        const key = `${layer} ${operation}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
      return counts;
    };
    const [before, after] = [count(plain.calls), count(made.calls)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [key, times] of before) expect(after.get(key)).toBeGreaterThanOrEqual(times);
  });
});

describe('backward', () => {
  test('needs a path', () => {
    const graph = new Graph(target);
    const [a, b] = [graph.input('a', shape), graph.input('b', shape)];
    expect(() => graph.backward(relu(graph, a), graph.input('seed', shape), b, add)).toThrow('does not depend on b');
  });

  test('needs a seed of the output’s shape', () => {
    const graph = new Graph(target);
    const x = graph.input('x', shape);
    const seed = graph.input('seed', { ...shape, n: 2 });
    expect(() => graph.backward(relu(graph, x), seed, x, add)).toThrow(
      'must have its shape [1, 4, 4, 4], found [2, 4, 4, 4]',
    );
  });

  test('branches that the input does not reach get no gradient operations', () => {
    const graph = new Graph(target);
    const [x, other] = [graph.input('x', shape), graph.input('other', shape)];
    const y = add(graph, silu(graph, x), silu(graph, silu(graph, other)));
    const before = graph.operations.length;
    graph.backward(y, graph.input('seed', shape), x, add);
    expect(graph.operations.slice(before).map((o) => o.name)).toEqual(['silu gradient']);
  });
});
