/**
 * @file Any model as a graph of its own: a pass forward, and optionally the gradient back to its input.
 */
import type { ModelArguments } from '../checkpoints/config.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph, type Target } from '../runtime/graph.ts';
import type { Activation, Shape, Tensor } from '../runtime/resources.ts';
import type { WeightShapes } from '../runtime/weights.ts';
import * as classifier from './classifier.ts';
import { add } from './elementwise.ts';
import * as superResolution from './super_resolution.ts';
import * as unet from './unet.ts';

/** What it takes to build a model: its kind and arguments, and its parameters. */
export interface BuildableModel {
  readonly config: ModelArguments;
  readonly weights: WeightShapes;
}

export interface NetworkSize {
  readonly batch: number;
  /** Of the input; the model's `image_size` by default. */
  readonly height?: number | undefined;
  readonly width?: number | undefined;
  /** Of the smaller picture, for a super-resolution model. */
  readonly lowRes?: { readonly height: number; readonly width: number } | undefined;
}

export interface NetworkGraph {
  readonly graph: Graph;
  readonly inputs: {
    readonly x: Activation;
    readonly timesteps: Activation;
    /** What a U-Net is told, or the y of a classifier's log p(y | x); null where it plays no part. */
    readonly labels: Tensor | null;
    readonly lowRes: Activation | null;
    /** The gradient with respect to a U-Net's output. */
    readonly upstream: Activation | null;
  };
  readonly outputs: {
    readonly output: Activation;
    readonly gradient: Activation | null;
    /** log p(y | x), and log p(k | x) of every class, of a classifier with its gradient. */
    readonly selected: Activation | null;
    readonly logProbs: Activation | null;
  };
}

/** x of a model at a size. */
export function inputShape({ model }: ModelArguments, { batch, height, width }: NetworkSize): Shape {
  if (!Number.isInteger(batch) || batch < 1) throw new OptionError(`batch should be at least 1, found ${batch}`);
  return { n: batch, c: model.in_channels, h: height ?? model.image_size, w: width ?? model.image_size };
}

/**
 * @param gradient of a classifier: of log p(y | x); of a U-Net: of its output times `upstream`
 * @throws OptionError if the sizes do not go through such a model
 */
export function buildNetwork(
  target: Target,
  { config, weights }: BuildableModel,
  size: NetworkSize,
  gradient: boolean,
): NetworkGraph {
  if ((config.kind === 'super_resolution') !== (size.lowRes !== undefined)) {
    throw new OptionError('lowRes, the size of the smaller picture, is for super-resolution models, and needed there');
  }
  const graph = new Graph(target);
  const b = { graph, weights };
  const shape = inputShape(config, size);
  const { n } = shape;
  const inputs = {
    x: graph.input('x', shape),
    timesteps: graph.input('timesteps', { n, h: 1, w: 1, c: config.model.model_channels }),
  };
  const none = { labels: null, lowRes: null, upstream: null };

  if (config.kind === 'classifier') {
    const output = classifier.forward(b, config.model, inputs);
    if (!gradient) {
      return {
        graph,
        inputs: { ...inputs, ...none },
        outputs: { output, gradient: null, selected: null, logProbs: null },
      };
    }
    const labels = graph.inputArray('labels', n);
    const { selected, logProbs } = classifier.select(graph, output, labels);
    const ones = graph.constant('ones', selected.shape, 1);
    const back = graph.backward(selected, ones, inputs.x, add);
    return {
      graph,
      inputs: { ...inputs, ...none, labels },
      outputs: { output, gradient: back, selected, logProbs },
    };
  }

  const labels = config.model.num_classes === null ? null : graph.inputArray('labels', n);
  const lowRes = size.lowRes ? graph.input('low_res', { ...shape, h: size.lowRes.height, w: size.lowRes.width }) : null;
  const told = { ...inputs, labels };
  const output = lowRes
    ? superResolution.forward(b, config.model, { ...told, lowRes })
    : unet.forward(b, config.model, told);
  const upstream = gradient ? graph.input('upstream', output.shape) : null;
  const back = upstream && graph.backward(output, upstream, inputs.x, add);
  return {
    graph,
    inputs: { ...told, lowRes, upstream },
    outputs: { output, gradient: back, selected: null, logProbs: null },
  };
}

/** The smaller picture where nobody said how large it is: a quarter of the sides, as the released models enlarge. */
export function usualLowRes(config: ModelArguments, size: NetworkSize): NetworkSize['lowRes'] {
  if (config.kind !== 'super_resolution') return undefined;
  const { h, w } = inputShape(config, size);
  return { height: Math.max(1, h >> 2), width: Math.max(1, w >> 2) };
}
