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
import { type Candidate, choiceKey, forcedAmong, wayOf } from './variants.ts';

/**
 * What a visit is taken to run at least, in milliseconds and in steps (`Tuning.visitSteps`), in which a faster variant must
 * make up for its compilation. Many run for longer, but nothing is seen before the first step, and browsers compile at half
 * the speed of Node, where tables are made.
 */
const LEAST_MS = 4000;

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

/** Names of variants by `choiceKey`, for those choices that measurements say anything about. */
export function select(operations: readonly ListedOperation[], tuning: Tuning): ReadonlyMap<string, string> {
  const demands = new Map<string, Demand>();
  /** Choices that are forced, or that nothing is known of, and the pipelines that these need. */
  const settled = new Set<string>();
  const compiledAnyway = new Set<string>();
  for (const { choice } of operations) {
    if (!choice) continue;
    const candidates = choice.candidates();
    const key = choiceKey(choice, candidates);
    const there = demands.get(key);
    if (there) demands.set(key, { ...there, count: there.count + 1 });
    if (there || settled.has(key)) continue;
    const forced = forcedAmong(candidates, choice);
    const times = forced ? undefined : tuning.timesOf(choice, new Set(candidates.map(({ name }) => name)));
    if (times) {
      demands.set(key, { key, count: 1, options: optionsOf(candidates, times, tuning) });
    } else {
      settled.add(key);
      for (const call of (forced ?? candidates[0])?.lower() ?? []) compiledAnyway.add(pipelineKey(call));
    }
  }
  const list = [...demands.values()];
  const compilation = (key: string) => (compiledAnyway.has(key) ? 0 : (tuning.compilationMs(key) ?? UNKNOWN_MS));
  const fastestStep = list.reduce((sum, { count, options }) => sum + count * fastest(options).ms, 0);
  return leastVisit(list, compilation, Math.max(tuning.visitSteps, LEAST_MS / fastestStep));
}

/** How much slower than the fastest a tile is taken to be that a table leaves out for being slow (`HOPELESS`). */
const LEFT_OUT = 2;

/**
 * The ways to a shape of which anything is known. A tile that a table leaves out was slow, and where it spares a pipeline a
 * small layer can afford that: it is taken to be slower than the fastest of its way by `LEFT_OUT`, or by more if its cost
 * says so. Only of pipelines that are known to compile: nobody may have waited for them.
 */
export function optionsOf(
  candidates: readonly Candidate[],
  times: ReadonlyMap<string, number>,
  tuning: Pick<Tuning, 'compilationMs'>,
): Option[] {
  const measured = candidates.filter(({ name }) => times.has(name));
  const guess = ({ name, cost }: Candidate): number | null => {
    const kin = measured.filter((other) => wayOf(other.name) === wayOf(name));
    if (kin.length === 0) return null;
    const best = kin.reduce((a, b) => (times.get(b.name)! < times.get(a.name)! ? b : a));
    return times.get(best.name)! * Math.max(LEFT_OUT, cost / best.cost);
  };
  return candidates.flatMap((candidate) => {
    const { name } = candidate;
    const ms = times.get(name) ?? guess(candidate);
    if (ms === null) return [];
    const pipelines = candidate.lower().map(pipelineKey);
    if (!times.has(name) && pipelines.some((key) => tuning.compilationMs(key) === undefined)) return [];
    return [{ name, ms, pipelines }];
  });
}

const fastest = (options: readonly Option[]): Option => options.reduce((a, b) => (b.ms < a.ms ? b : a));

/**
 * The options with which a visit takes least time, as far as a local search finds them: from the fastest of each shape on,
 * a shape takes another option, all shapes take one with a certain pipeline, or none takes such a one any more, while that
 * gains.
 *
 * @param compilation milliseconds to compile the pipeline of a key
 * @param steps of the visit
 */
export function leastVisit(
  demands: readonly Demand[],
  compilation: (key: string) => number,
  steps: number,
): ReadonlyMap<string, string> {
  // What is taken is kept as the number of each shape's option, and pipelines as numbers too: this runs before a first picture.
  type Taken = readonly number[];
  const keys = [...new Set(demands.flatMap(({ options }) => options.flatMap(({ pipelines }) => pipelines)))];
  const numbers = new Map(keys.map((key, i) => [key, i]));
  const compiling = keys.map(compilation);
  const shapes = demands.map(({ count, options }) =>
    options.map(({ ms, pipelines }) => ({
      running: steps * count * ms,
      pipelines: pipelines.map((key) => numbers.get(key)!),
    })),
  );
  const counted = new Uint32Array(keys.length); // in which visit each pipeline was counted last
  let visits = 0;
  const visit = (taken: Taken): number => {
    visits++;
    let ms = 0;
    for (let i = 0; i < shapes.length; i++) {
      const { running, pipelines } = shapes[i]![taken[i]!]!;
      ms += running;
      for (const pipeline of pipelines) {
        if (counted[pipeline] === visits) continue;
        counted[pipeline] = visits;
        ms += compiling[pipeline]!;
      }
    }
    return ms;
  };
  const changed = (taken: Taken, i: number, option: number): Taken => taken.map((old, k) => (k === i ? option : old));
  const without = (taken: Taken, pipeline: number): Taken =>
    shapes.reduce((made: Taken, options, i) => {
      if (!options[made[i]!]!.pipelines.includes(pipeline)) return made;
      const rest = options.flatMap(({ pipelines }, k) => (pipelines.includes(pipeline) ? [] : [changed(made, i, k)]));
      return rest.length === 0 ? made : least(rest);
    }, taken);
  /** The number of a shape's fastest option, or of its fastest with a certain pipeline; null if it has none. */
  const fastestOf = (options: (typeof shapes)[number], pipeline?: number): number | null =>
    options.reduce<number | null>((best, { running, pipelines }, k) => {
      if (pipeline !== undefined && !pipelines.includes(pipeline)) return best;
      return best === null || running < options[best]!.running ? k : best;
    }, null);
  const wherever = (taken: Taken, pipeline: number): Taken =>
    taken.map((old, i) => fastestOf(shapes[i]!, pipeline) ?? old);
  const least = (ways: readonly Taken[]): Taken =>
    ways.map((taken) => ({ taken, ms: visit(taken) })).reduce((a, b) => (b.ms < a.ms ? b : a)).taken;

  let taken: Taken = shapes.map((options) => fastestOf(options)!);
  for (;;) {
    let next = taken;
    for (let pipeline = 0; pipeline < keys.length; pipeline++) {
      next = least([next, without(next, pipeline), wherever(next, pipeline)]);
    }
    shapes.forEach((options, i) => {
      next = least([next, ...options.map((_, k) => changed(next, i, k))]);
    });
    if (!(visit(next) < visit(taken))) {
      return new Map(demands.map(({ key, options }, i) => [key, options[taken[i]!]!.name]));
    }
    taken = next;
  }
}
