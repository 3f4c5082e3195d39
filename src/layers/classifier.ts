/**
 * @file ADM's noisy classifier (EncoderUNetModel of guided-diffusion): the downward half of the U-Net and a pool.
 *
 * Dhariwal & Nichol 2021, section 4.1. Its gradient with respect to x_t is what guidance needs.
 */
import logSoftmaxSelect from '../../shaders/classification/log_softmax_select.wgsl';
import logSoftmaxSelectBackward from '../../shaders/classification/log_softmax_select_backward.wgsl';
import type { Graph } from '../runtime/graph.ts';
import type { Activation, Tensor } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import * as attentionPool from './attention_pool.ts';
import type { Builder, Parameter } from './builder.ts';
import { concat, relu } from './elementwise.ts';
import {
  blockForward,
  blockParameters,
  type EncoderArguments,
  encoderBlocks,
  type Layer,
  residualBlocks,
  timeEmbed,
  timeEmbedParameters,
} from './encoder.ts';
import * as groupNorm from './group_norm.ts';
import * as linear from './linear.ts';
import * as resBlock from './res_block.ts';
import { meanPixels } from './resample.ts';
import type { Trace } from './unet.ts';

/**
 * How the pixels become one vector: attention with a mean token, plain mean ("adaptive"), or the means of every block's
 * result through a two-layer perceptron ("spatial", with a norm in between "spatial_v2").
 */
export type Pool = 'attention' | 'adaptive' | 'spatial' | 'spatial_v2';

export interface ClassifierArguments extends EncoderArguments {
  readonly pool: Pool;
}

/** Width of the perceptron behind the spatial pools. */
const HIDDEN = 2048;

export interface ClassifierInputs {
  /** x_t [N, C, H, W]. */
  readonly x: Activation;
  /** [N, model_channels], made by `timestepEmbedding`. */
  readonly timesteps: Activation;
}

function blocks(args: ClassifierArguments) {
  const { input, middle, factor } = encoderBlocks(args);
  const all = [...input, middle];
  const features = all.reduce((sum, block) => sum + block.channels, 0);
  return {
    all,
    norm: groupNorm.normalization(middle.channels, true, args.norm_eps),
    attention: {
      size: Math.floor(args.image_size / factor),
      channels: middle.channels,
      headChannels: args.num_head_channels,
      out: args.out_channels,
    },
    /** The 1 x 1 convolution of the adaptive pool. */
    conv: { in: middle.channels, out: args.out_channels, taps: 2 } as const,
    first: { in: features, out: HIDDEN, taps: 0 } as const,
    hiddenNorm: groupNorm.normalization(HIDDEN, true),
    last: { in: HIDDEN, out: args.out_channels, taps: 0 } as const,
  };
}

type Blocks = ReturnType<typeof blocks>;

/** One pool: its parameters, and what it makes of the results of all blocks, the last of them the middle's. */
interface PoolLayer {
  parameters(blocks: Blocks): Parameter[];
  /** @param features is given the vector before the last linear layer, [N, F] */
  forward(
    b: Builder,
    blocks: Blocks,
    results: readonly Activation[],
    features: (value: Activation) => Activation,
  ): Activation;
}

/** The name under which `forward` traces the vector before its last linear layer. */
export const FEATURES = 'features';

const POOLS: Readonly<Record<Pool, PoolLayer>> = {
  attention: {
    parameters: ({ norm, attention }) => [
      ...groupNorm.parameters(norm, 'out.0'),
      ...attentionPool.parameters(attention, 'out.2'),
    ],
    forward: (b, { norm, attention }, results, features) =>
      attentionPool.forward(b, attention, 'out.2', groupNorm.forward(b, norm, 'out.0', results.at(-1)!), features),
  },
  adaptive: {
    parameters: ({ norm, conv }) => [...groupNorm.parameters(norm, 'out.0'), ...linear.parameters(conv, 'out.3')],
    forward: (b, { norm }, results, features) =>
      linear.forward(b, 'out.3', features(meanPixels(b.graph, groupNorm.forward(b, norm, 'out.0', results.at(-1)!)))),
  },
  spatial: {
    parameters: ({ first, last }) => [...linear.parameters(first, 'out.0'), ...linear.parameters(last, 'out.2')],
    forward: (b, _blocks, results, features) =>
      linear.forward(b, 'out.2', features(relu(b.graph, linear.forward(b, 'out.0', blockMeans(b, results))))),
  },
  spatial_v2: {
    parameters: ({ first, hiddenNorm, last }) => [
      ...linear.parameters(first, 'out.0'),
      ...groupNorm.parameters(hiddenNorm, 'out.1'),
      ...linear.parameters(last, 'out.3'),
    ],
    forward: (b, { hiddenNorm }, results, features) => {
      const hidden = linear.forward(b, 'out.0', blockMeans(b, results));
      return linear.forward(b, 'out.3', features(groupNorm.forward(b, hiddenNorm, 'out.1', hidden)));
    },
  },
};

const blockMeans = (b: Builder, results: readonly Activation[]): Activation =>
  concat(
    b.graph,
    results.map((result) => meanPixels(b.graph, result)),
  );

/** The layers of all blocks, in the order in which they run. */
export const layersOf = (args: ClassifierArguments): Layer[] => blocks(args).all.flatMap((block) => block.layers);

/** All parameters, in the order of guided-diffusion's `state_dict`. */
export function parameters(args: ClassifierArguments): Parameter[] {
  const made = blocks(args);
  return [...timeEmbedParameters(args), ...blockParameters(made.all), ...POOLS[args.pool].parameters(made)];
}

/** @returns logits [N, classes] */
export function forward(
  b: Builder,
  args: ClassifierArguments,
  inputs: ClassifierInputs,
  trace: Trace = () => {},
): Activation {
  const made = blocks(args);
  const embedding = timeEmbed(b, inputs.timesteps);
  trace('time_embed', embedding);
  const projections = resBlock.projectEmbeddings(b, residualBlocks(made.all), embedding);
  let h = inputs.x;
  const results = made.all.map((block) => {
    h = blockForward(b, block, h, projections);
    trace(block.name, h);
    return h;
  });
  return b.graph.within('out', () =>
    POOLS[args.pool].forward(b, made, results, (value) => {
      trace(FEATURES, value);
      return value;
    }),
  );
}

export interface Selection {
  /** log p(y | x) of each image's class, [N, 1]. */
  readonly selected: Activation;
  /** log p(k | x) of every class, [N, classes]. */
  readonly logProbs: Activation;
}

/**
 * log_softmax(logits), and its entry at each image's label.
 *
 * @param labels N words below the number of classes
 */
export function select(graph: Graph, logits: Activation, labels: Tensor): Selection {
  const { n, c } = logits.shape;
  const logProbs = graph.activation('log_softmax', logits.shape);
  const selected = graph.activation('log p(y)', { n, h: 1, w: 1, c: 1 });
  graph.append({
    name: 'log_softmax',
    inputs: [logits, labels],
    outputs: [selected, logProbs],
    lower: () => [
      kernelCall(logSoftmaxSelect, {
        bind: { logits, labels, log_probs: logProbs, selected },
        sizes: { CLASSES: c },
        grid: [n, 1, 1],
        cost: { flops: 4 * n * c, bytes: 3 * logits.bytes },
      }),
    ],
    adjoint: ({ outputs: [dSelected] }) => {
      if (!dSelected) throw new Error('only the selected log-probability has a gradient');
      const dLogits = graph.activation('log_softmax gradient', logits.shape);
      graph.append({
        name: 'log_softmax gradient',
        inputs: [logProbs, labels, dSelected],
        outputs: [dLogits],
        lower: () => [
          kernelCall(logSoftmaxSelectBackward, {
            bind: { log_probs: logProbs, labels, d_selected: dSelected, d_logits: dLogits },
            sizes: { IMAGES: n, CLASSES: c },
            grid: lineGrid(dLogits.bytes / 4, 64),
            cost: { flops: 3 * n * c, bytes: 2 * logits.bytes },
          }),
        ],
      });
      return [dLogits, null];
    },
  });
  return { selected, logProbs };
}
