/** @file What the tests of all variants of an operation share. */
import { expect } from 'vitest';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import type { Runtime } from '../../src/runtime/device.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { pipelineKey } from '../../src/runtime/pipelines.ts';
import { WeightShapes } from '../../src/runtime/weights.ts';

/** Relative L2 errors that variants are held to; the reduced ones state theirs in their shaders. */
export const toleranceOf = (variant: string): number => (variant.startsWith('f16 ') ? 2e-3 : 2e-6);

/** Every variant may be taken, the less exact ones too. */
export const anyVariant = (runtime: Runtime): Target => ({ ...runtime.target, accuracy: 'reduced' });

/** Names of the variants that fit all operations of the given kind that `build` appends. */
export function variantsFor(
  target: Target,
  parameters: Readonly<Record<string, readonly number[]>>,
  build: (e: Pick<Evaluation, 'graph' | 'weights'>) => void,
): string[] {
  const graph = new Graph(target);
  build({ graph, weights: new WeightShapes(new Map(Object.entries(parameters))) });
  const choice = graph.operations.find((operation) => operation.choice)!.choice!;
  const candidates = choice.candidates();
  // A variant that never reached the kernels would agree with all others: their first pipelines must differ.
  const keys = candidates.map((candidate) => candidate.lower().map(pipelineKey).join(' ') + gridsOf(candidate.lower()));
  expect(new Set(keys).size).toBe(keys.length);
  return candidates.map(({ name }) => name);
}

/**
 * The variant of each way that should cost least, since compiling all tiles takes software adapters minutes.
 * PILOTWAVE_ALL_VARIANTS=1 keeps all.
 */
export function oneOfEachWay(names: readonly string[]): string[] {
  if (process.env['PILOTWAVE_ALL_VARIANTS']) return [...names];
  const wayOf = (name: string) =>
    name.startsWith('winograd ') ? name.split(' ', 2).join(' ') : name.split(' ', 1)[0]!;
  const seen = new Set<string>();
  return names.filter((name) => {
    const first = !seen.has(wayOf(name));
    seen.add(wayOf(name));
    return first;
  });
}

const gridsOf = (calls: readonly { readonly grid: readonly number[] }[]): string =>
  calls.map(({ grid }) => grid.join('x')).join(' ');
