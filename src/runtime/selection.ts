/**
 * @file Which variants a graph takes, by what is known of their times.
 *
 * A first visit waits for its pipelines to compile, and shapes share pipelines: the fastest variant of each shape by itself
 * would compile a large kernel for a layer that another one's would have served almost as well. So they are chosen for the
 * whole graph: what its steps take, and what is compiled for all of them together, is made small.
 */
import type { ListedOperation } from './graph.ts';
import { pipelineKey } from './pipelines.ts';
import type { Tuning } from './tuning.ts';
import type { Candidate, Choice } from './variants.ts';

/**
 * Steps in which a faster variant must make up for its compilation. A run has 25 or more, but nothing is seen before the
 * first, and browsers compile at half the speed of Node, where tables are made.
 */
const STEPS = 10;

/** Milliseconds that a pipeline is taken to compile for if nobody measured it. */
const UNKNOWN_MS = 100;

/** A shape of the graph, and the ways to it. */
export interface Demand {
  readonly key: string;
  /** Calls a step. */
  readonly count: number;
  /** At least one. */
  readonly options: readonly Option[];
}

export interface Option {
  readonly name: string;
  /** Of one call. */
  readonly ms: number;
  /** Keys of the pipelines that it needs. */
  readonly pipelines: readonly string[];
}

/** Calls of equal keys take the same variant. */
export const choiceKey = ({ kind, form, sizes }: Choice, candidates: readonly Candidate[]): string =>
  `${kind} ${form} ${sizes.join(' ')} ${candidates.map(({ name }) => name).join()}`;

/** Names of variants by `choiceKey`, for those choices that measurements say anything about. */
export function select(operations: readonly ListedOperation[], tuning: Tuning): ReadonlyMap<string, string> {
  const demands = new Map<string, Demand>();
  const compiledAnyway = new Set<string>();
  for (const { choice } of operations) {
    if (!choice) continue;
    const candidates = choice.candidates();
    const key = choiceKey(choice, candidates);
    const there = demands.get(key);
    if (there) {
      demands.set(key, { ...there, count: there.count + 1 });
      continue;
    }
    const times = tuning.timesOf(choice, new Set(candidates.map(({ name }) => name)));
    const option = ({ name, lower }: Candidate): Option => ({
      name,
      ms: times?.get(name) ?? 0,
      pipelines: lower().map(pipelineKey),
    });
    if (times)
      demands.set(key, { key, count: 1, options: candidates.filter(({ name }) => times.has(name)).map(option) });
    else if (candidates[0]) for (const needed of option(candidates[0]).pipelines) compiledAnyway.add(needed);
  }
  const compilation = (key: string) => (compiledAnyway.has(key) ? 0 : (tuning.compilationMs(key) ?? UNKNOWN_MS));
  return leastVisit([...demands.values()], compilation);
}

/**
 * The options with which a visit takes least time, as far as a local search finds them: from the fastest of each shape on,
 * a shape takes another option, all shapes take an option that they have, or none takes it any more, while that gains.
 *
 * @param compilation milliseconds to compile the pipeline of a key
 */
export function leastVisit(
  demands: readonly Demand[],
  compilation: (key: string) => number,
): ReadonlyMap<string, string> {
  type Taken = readonly Option[];
  const names = new Set(demands.flatMap(({ options }) => options.map(({ name }) => name)));
  const visit = (taken: Taken): number => {
    const pipelines = new Set(taken.flatMap((option) => option.pipelines));
    const running = taken.reduce((sum, { ms }, i) => sum + STEPS * demands[i]!.count * ms, 0);
    return [...pipelines].reduce((sum, key) => sum + compilation(key), running);
  };
  const changed = (taken: Taken, i: number, option: Option): Taken => taken.map((old, k) => (k === i ? option : old));
  const without = (taken: Taken, name: string): Taken =>
    demands.reduce((made: Taken, { options }, i) => {
      const rest = options.filter((option) => option.name !== name);
      if (made[i]!.name !== name || rest.length === 0) return made;
      return least(rest.map((option) => changed(made, i, option)));
    }, taken);
  const wherever = (taken: Taken, name: string): Taken =>
    taken.map((old, i) => demands[i]!.options.find((option) => option.name === name) ?? old);
  const least = (ways: readonly Taken[]): Taken =>
    ways.map((taken) => ({ taken, ms: visit(taken) })).reduce((a, b) => (b.ms < a.ms ? b : a)).taken;

  let taken: Taken = demands.map(({ options }) => options.reduce((a, b) => (b.ms < a.ms ? b : a)));
  for (;;) {
    let next = taken;
    for (const name of names) next = least([next, without(next, name), wherever(next, name)]);
    demands.forEach(({ options }, i) => {
      next = least([next, ...options.map((option) => changed(next, i, option))]);
    });
    if (visit(next) >= visit(taken)) return new Map(demands.map(({ key }, i) => [key, taken[i]!.name]));
    taken = next;
  }
}
