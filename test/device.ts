/** @file What GPU tests share: a runtime of their own, inputs that repeat, and one way to compare. */
import { afterAll, expect } from 'vitest';
import type { Checkpoint, CheckpointTensor } from '../src/checkpoints/safetensors.ts';
import { type Evaluation, evaluate } from '../src/cli/verify/evaluate.ts';
import { requestNodeDevice } from '../src/node/device.ts';
import { Runtime, type RuntimeOptions } from '../src/runtime/device.ts';
import type { Graph, Target } from '../src/runtime/graph.ts';
import type { Plan } from '../src/runtime/plan.ts';
import type { Activation, Shape } from '../src/runtime/resources.ts';
import { type ForcedVariants, parseVariants } from '../src/runtime/variants.ts';

/**
 * A runtime for one test file, on the adapter that PILOTWAVE_ADAPTER names. PILOTWAVE_VARIANTS forces variants of kernels,
 * for example "conv2d=winograd 2x2,linear=lanes".
 *
 * @param own variants forced where the environment says nothing
 * @param options what else differs from the adapter's own choices
 */
export async function testRuntime(
  own: ForcedVariants = {},
  options: Pick<RuntimeOptions, 'as' | 'accuracy'> = {},
): Promise<Runtime> {
  const { device } = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto', { experimental: true });
  const forced = process.env['PILOTWAVE_VARIANTS'];
  const variants = { ...own, ...(forced ? parseVariants(forced) : {}) };
  const runtime = new Runtime(device, { tuning: 'off', variants, ...options });
  const errors: string[] = [];
  device.addEventListener('uncapturederror', (event) => errors.push((event as GPUUncapturedErrorEvent).error.message));
  afterAll(() => {
    runtime.dispose();
    device.destroy();
    expect(errors, 'errors that the device reported on its own').toEqual([]);
  });
  return runtime;
}

/** Numbers in [-1, 1) from a seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** Values exactly representable in float32, so that the float64 reference sees the same input as the device. */
export function values(length: number, seed: number, scale = 1): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length }, () => next() * scale);
}

export const size = ({ n, c, h, w }: Shape): number => n * c * h * w;

/** Float32 parameters as a checkpoint. */
export function checkpointOf(
  parameters: Readonly<Record<string, { shape: readonly number[]; data: Float32Array }>>,
): Checkpoint {
  const tensors = new Map<string, CheckpointTensor>();
  for (const [name, { shape, data }] of Object.entries(parameters)) {
    tensors.set(name, { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) });
  }
  return { tensors, metadata: new Map() };
}

export const noWeights: Checkpoint = checkpointOf({});

/** Runs a graph once. */
export const run = (
  runtime: Runtime,
  weights: Checkpoint,
  build: (e: Evaluation) => void,
  target?: Target,
): Promise<Record<string, Float32Array>> => evaluate(runtime, weights, build, target);

/**
 * Relative L2 error within `tolerance`. A float32 sum of k terms errs by about 6e-8 * sqrt(k) of its size; 2e-6 leaves a
 * small factor for a few thousand terms.
 */
export function expectClose(found: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 2e-6): void {
  expect(found.length).toBe(expected.length);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  expect(norm, 'a reference of zeros proves nothing').toBeGreaterThan(0);
  expect(Math.sqrt(difference / norm)).toBeLessThan(tolerance);
}

/** <a, b> in float64. */
export function inner(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Sets all inputs of a plan, and all fields of its uniforms, to something. */
export function setEverything(plan: Plan, graph: Graph): void {
  let seed = 1;
  for (const tensor of graph.persistent) {
    if (!plan.has(tensor) || graph.fills.has(tensor as Activation)) continue;
    const words = tensor.bytes / 4;
    if (!tensor.shape)
      plan.write(
        tensor,
        Uint32Array.from({ length: words }, (_, i) => i % 7),
      );
    else plan.write(tensor, values(tensor.shape.n * tensor.shape.c * tensor.shape.h * tensor.shape.w, seed++));
  }
  for (const uniform of graph.uniforms) {
    const fields = Object.entries(uniform.block.fields);
    plan.set(uniform, Object.fromEntries(fields.map(([name, { type }]) => [name, type === 'f32' ? 0.75 : 3])));
  }
}
