/**
 * @file What a model asks of a device: which packed parameters, how many bytes, how many operations. Pure arithmetic.
 */
import { buildNetwork, usualLowRes } from '../layers/network.ts';
import type { Target } from '../runtime/graph.ts';
import type { PackedWeights } from '../runtime/resources.ts';
import { schedule } from '../runtime/schedule.ts';
import { WeightShapes } from '../runtime/weights.ts';
import { type ModelArguments, modelParameters } from './config.ts';

export interface Demand {
  /** Distinct packed parameters of the pass, in the order of their first use. */
  readonly packed: readonly PackedWeights[];
  /** Bytes of packed parameters on the device. */
  readonly weightBytes: number;
  /** Bytes of activations that a plan allocates. */
  readonly activationBytes: number;
  /** The largest buffer that a kernel is bound to: to be held against `maxStorageBufferBindingSize`. */
  readonly largestBinding: number;
  /** Floating-point operations of the pass, 2 for a multiply-add. */
  readonly flops: number;
}

export interface DemandOptions {
  /** Images at a time; 1 by default. */
  readonly batch?: number;
  readonly target?: Target;
  /** Real parameters, where the result's `packed` is to be packed; by default their shapes are those of the model. */
  readonly weights?: WeightShapes;
}

/** One pass at the model's own image size: of a classifier with its gradient, as guidance needs it. */
export function demandOf(config: ModelArguments, options: DemandOptions = {}): Demand {
  const { batch = 1, target = { adapter: 'gpu', slowCompiler: false } } = options;
  const weights =
    options.weights ?? new WeightShapes(new Map(modelParameters(config).map(({ name, shape }) => [name, shape])));
  const size = { batch, lowRes: usualLowRes(config, { batch }) };
  const { graph, outputs } = buildNetwork(target, { config, weights }, size, config.kind === 'classifier');
  const made = schedule(graph, [outputs.gradient ?? outputs.output]);
  const packed = new Map<string, PackedWeights>();
  let largest = 0;
  let flops = 0;
  for (const { bind, cost } of made.calls) {
    flops += cost.flops;
    for (const resource of Object.values(bind)) {
      if (resource.kind === 'weights') packed.set(resource.key, resource);
      if (resource.kind === 'weights' || resource.kind === 'tensor') largest = Math.max(largest, resource.bytes);
    }
  }
  const list = [...packed.values()];
  return {
    packed: list,
    weightBytes: list.reduce((sum, { bytes }) => sum + bytes, 0),
    activationBytes: made.bytes,
    largestBinding: largest,
    flops,
  };
}
