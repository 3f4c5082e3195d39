/** @file What the tests of all variants of an operation share. */
import { expect } from 'vitest';
import type { Checkpoint } from '../../src/checkpoints/safetensors.ts';
import type { Evaluation } from '../../src/cli/verify/evaluate.ts';
import type { Runtime } from '../../src/runtime/device.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { pipelineKey } from '../../src/runtime/pipelines.ts';
import type { Activation, Shape } from '../../src/runtime/resources.ts';
import { wayOf } from '../../src/runtime/variants.ts';
import { WeightShapes } from '../../src/runtime/weights.ts';
import { expectClose, run } from '../device.ts';

/** Relative L2 errors that variants are held to; the reduced ones state theirs in their shaders. */
export const toleranceOf = (variant: string): number => (/^(f16|matrix|split-matrix) /.test(variant) ? 2e-3 : 2e-6);

/** Every variant may be taken, the less exact ones too. */
export const anyVariant = (runtime: Runtime): Target => ({ ...runtime.target, accuracy: 'reduced' });

/** What a layer should give: its result, that with `residual` added, and its gradient. */
export interface LayerCase {
  readonly x: { readonly shape: Shape; readonly values: Float32Array };
  readonly residual: Float32Array;
  readonly upstream: Float32Array;
  readonly expected: { readonly shape: Shape; readonly data: ArrayLike<number> };
  readonly gradient: ArrayLike<number>;
  forward(e: Evaluation, x: Activation, residual: Activation | null): Activation;
}

/** Holds one variant of a layer, named in `target`, to what the layer should give. */
export async function expectLayer(
  runtime: Runtime,
  weights: Checkpoint,
  { x, residual, upstream, expected, gradient, forward }: LayerCase,
  target: Target,
  tolerance: number,
): Promise<void> {
  const build = (e: Evaluation) => {
    const input = e.input('x', x.shape, x.values);
    const y = forward(e, input, null);
    e.output('y', y);
    e.output('added', forward(e, input, e.input('r', expected.shape, residual)));
    e.gradient('dx', y, upstream, input);
  };
  const found = await run(runtime, weights, build, target);
  const added = Float64Array.from(expected.data, (value, i) => value + residual[i]!);
  expectClose(found['y']!, expected.data, tolerance);
  expectClose(found['added']!, added, tolerance);
  expectClose(found['dx']!, gradient, tolerance);
}

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
  const seen = new Set<string>();
  return names.filter((name) => {
    const first = !seen.has(wayOf(name));
    seen.add(wayOf(name));
    return first;
  });
}

const gridsOf = (calls: readonly { readonly grid: readonly number[] }[]): string =>
  calls.map(({ grid }) => grid.join('x')).join(' ');
