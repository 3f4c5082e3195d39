/** @file What the sampler tests share: a run written down step by step, and an independent look at the classifier. */
import { type ClassifierModel, Model } from '../../src/checkpoints/model.ts';
import { evaluate } from '../../src/cli/verify/evaluate.ts';
import type { GaussianDiffusion } from '../../src/diffusion/gaussian_diffusion.ts';
import type { SamplingStep } from '../../src/diffusion/sampling.ts';
import * as classifier from '../../src/layers/classifier.ts';
import { timestepEmbedding } from '../../src/layers/embedding.ts';
import type { Runtime } from '../../src/runtime/device.ts';
import type { Shape } from '../../src/runtime/resources.ts';

export interface RecordedStep {
  readonly t: number;
  readonly timestep: number;
  readonly sample: Float32Array;
  readonly predXstart: Float32Array;
  readonly v: Float32Array | null;
  readonly output: Float32Array;
  readonly gradient: Float32Array | null;
}

/** Every state of a run. */
export async function record(steps: AsyncIterable<SamplingStep>): Promise<RecordedStep[]> {
  const recorded: RecordedStep[] = [];
  for await (const step of steps) {
    const { mean, v } = await step.modelOutput();
    recorded.push({
      t: step.t,
      timestep: step.timestep,
      sample: await step.sample(),
      predXstart: await step.predXstart(),
      v,
      output: mean,
      gradient: await step.gradient(),
    });
  }
  return recorded;
}

/** The last state's x. */
export async function last(steps: AsyncIterable<SamplingStep>): Promise<Float32Array> {
  let final: SamplingStep | null = null;
  for await (const step of steps) final = step;
  return final!.sample();
}

/** grad log p(y | x) from a graph that holds the classifier and nothing else. */
export async function classifierGradient(
  runtime: Runtime,
  model: ClassifierModel,
  { x, shape, timestep, labels }: { x: Float32Array; shape: Shape; timestep: number; labels: readonly number[] },
): Promise<Float32Array> {
  const args = model.config.model;
  const told = timestepEmbedding(Array<number>(shape.n).fill(timestep), args.model_channels);
  const { gradient } = await evaluate(runtime, model.weights, (e) => {
    const point = e.input('x', shape, x);
    const timesteps = e.input('timesteps', { n: shape.n, h: 1, w: 1, c: args.model_channels }, told);
    const logits = classifier.forward(e, args, { x: point, timesteps });
    const { selected } = classifier.select(e.graph, logits, e.words('y', Uint32Array.from(labels)));
    e.gradient('gradient', selected, new Float32Array(shape.n).fill(1), point);
  });
  return gradient!;
}

/** f of the elements at one place of several arrays, in float64. */
export function zip(f: (...values: number[]) => number, ...arrays: ArrayLike<number>[]): Float64Array {
  return Float64Array.from({ length: arrays[0]!.length }, (_, i) => f(...arrays.map((array) => array[i]!)));
}

/** Noise level of the variance-exploding form: sqrt((1 - abar) / abar). */
export const sigmaAt = ({ alphas_cumprod }: GaussianDiffusion, t: number): number =>
  t < 0 ? 0 : Math.sqrt((1 - alphas_cumprod[t]!) / alphas_cumprod[t]!);

/** A model with another configuration and the same parameters. */
export const reconfigured = <M extends Model>(model: M, change: object): M =>
  new Model({ ...model.config, ...change } as M['config'], model.weights) as M;
