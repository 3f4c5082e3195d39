/**
 * @file Builds a graph, runs it once, reads what it was asked for.
 */
import type { Checkpoint } from '../../checkpoints/safetensors.ts';
import type { Builder } from '../../layers/builder.ts';
import { add } from '../../layers/elementwise.ts';
import type { Runtime } from '../../runtime/device.ts';
import { Graph, type Target } from '../../runtime/graph.ts';
import { Plan } from '../../runtime/plan.ts';
import type { Activation, Shape, Tensor } from '../../runtime/resources.ts';
import { Weights } from '../../runtime/weights.ts';

/** The kinds' runners return what they computed; a name that is missing counts as unsupported. */
export type Results = Record<string, ArrayLike<number>>;

export interface Evaluation extends Builder {
  /** An input with its values, NCHW. */
  input(name: string, shape: Shape, data: Float32Array): Activation;
  /** An input of words as they are. */
  words(name: string, data: Uint32Array): Tensor;
  /** Asks for a result. */
  output(name: string, tensor: Activation): void;
  /** Asks for the gradient of `y` with respect to `x`. */
  gradient(name: string, y: Activation, upstream: Float32Array, x: Activation): void;
}

/**
 * Runs what `build` appends.
 *
 * @param target what kernels are chosen for, if not for the runtime's own adapter
 */
export async function evaluate(
  runtime: Runtime,
  weights: Weights | Checkpoint,
  build: (e: Evaluation) => void,
  target: Target = runtime.target,
): Promise<Record<string, Float32Array>> {
  const own = weights instanceof Weights ? null : new Weights(runtime, weights.tensors);
  const graph = new Graph(target);
  const inputs: { tensor: Tensor; data: Float32Array | Uint32Array }[] = [];
  const outputs = new Map<string, Activation>();
  const input = (name: string, shape: Shape, data: Float32Array) => {
    const tensor = graph.input(name, shape);
    inputs.push({ tensor, data });
    return tensor;
  };
  build({
    graph,
    weights: own ?? (weights as Weights),
    input,
    words: (name, data) => {
      const tensor = graph.inputArray(name, data.length);
      inputs.push({ tensor, data });
      return tensor;
    },
    output: (name, tensor) => outputs.set(name, tensor),
    gradient: (name, y, upstream, x) => {
      outputs.set(name, graph.backward(y, input('upstream', y.shape, upstream), x, add));
    },
  });
  const plan = await Plan.create(runtime, graph, [...outputs.values()]);
  try {
    for (const { tensor, data } of inputs) if (plan.has(tensor)) plan.write(tensor, data);
    await plan.run();
    const results: Record<string, Float32Array> = {};
    for (const [name, tensor] of outputs) results[name] = await plan.read(tensor);
    return results;
  } finally {
    plan.dispose();
    own?.dispose();
  }
}
