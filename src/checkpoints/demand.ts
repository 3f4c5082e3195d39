/**
 * @file What a model asks of a device: which packed parameters, how many bytes, how many operations. Pure arithmetic.
 */

import * as classifier from '../layers/classifier.ts';
import { add } from '../layers/elementwise.ts';
import * as superResolution from '../layers/super_resolution.ts';
import * as unet from '../layers/unet.ts';
import { Graph, type Target } from '../runtime/graph.ts';
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
  const graph = new Graph(target);
  const b = { graph, weights };
  const { image_size: size, in_channels: channels, model_channels: width } = config.model;
  const x = graph.input('x_t', { n: batch, c: channels, h: size, w: size });
  const timesteps = graph.input('timesteps', { n: batch, c: width, h: 1, w: 1 });
  const labels = () => graph.inputArray('labels', batch);
  let output: ReturnType<typeof unet.forward>;
  switch (config.kind) {
    case 'unet':
      output = unet.forward(b, config.model, {
        x,
        timesteps,
        labels: config.model.num_classes === null ? null : labels(),
      });
      break;
    case 'super_resolution': {
      const lowRes = graph.input('low_res', { n: batch, c: channels, h: Math.ceil(size / 4), w: Math.ceil(size / 4) });
      const given = { x, timesteps, lowRes, labels: config.model.num_classes === null ? null : labels() };
      output = superResolution.forward(b, config.model, given);
      break;
    }
    case 'classifier': {
      const logits = classifier.forward(b, config.model, { x, timesteps });
      const { selected } = classifier.select(graph, logits, labels());
      output = graph.backward(selected, graph.constant('seed', selected.shape, 1), x, add);
    }
  }
  const made = schedule(graph, [output]);
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
