/**
 * @file ADM's U-Net (UNetModel of guided-diffusion): x_t and a timestep in, eps and optionally a variance out.
 *
 * Dhariwal & Nichol 2021, section 3. Names, order and arithmetic are those of openai/guided-diffusion's unet.py.
 */
import { OptionError } from '../runtime/errors.ts';
import { type Activation, describeShape, type Tensor } from '../runtime/resources.ts';
import type { ChannelMap } from '../runtime/weights.ts';
import type { Builder, Parameter } from './builder.ts';
import * as conv2d from './conv2d.ts';
import { concat } from './elementwise.ts';
import { addLabel } from './embedding.ts';
import {
  attentionLayer,
  type Block,
  blockForward,
  blockParameters,
  type EncoderArguments,
  embeddingChannels,
  encoderBlocks,
  type Layer,
  levelChannels,
  residualBlocks,
  resLayer,
  timeEmbed,
  timeEmbedParameters,
} from './encoder.ts';
import * as groupNorm from './group_norm.ts';
import * as resBlock from './res_block.ts';

export interface UNetArguments extends EncoderArguments {
  /** Number of classes, the null class included; null for a model without labels. */
  readonly num_classes: number | null;
  /** Heads in the output blocks; -1 for `num_heads`. Without effect where `num_head_channels` is given. */
  readonly num_heads_upsample: number;
}

export interface UNetInputs {
  /** x_t [N, C, H, W]; H and W divisible by 2 for each level but the first. */
  readonly x: Activation;
  /** Order and padding of x's channels, where they are not the checkpoint's. */
  readonly channels?: ChannelMap | null;
  /** [N, model_channels], made by `timestepEmbedding`. */
  readonly timesteps: Activation;
  /** N words, for a model with classes. */
  readonly labels: Tensor | null;
}

/** Called with each block's result, under the names of guided-diffusion's modules. */
export type Trace = (name: string, value: Activation) => void;

function blocks(args: UNetArguments) {
  const { input, middle, factor } = encoderBlocks(args);
  const skips = input.map((block) => block.channels);
  const numHeads = args.num_heads_upsample === -1 ? args.num_heads : args.num_heads_upsample;
  const output: Block[] = [];
  let channels = middle.channels;
  let ds = factor;
  for (let level = args.channel_mult.length - 1; level >= 0; level--) {
    for (let i = 0; i <= args.num_res_blocks; i++) {
      const name = `output_blocks.${output.length}`;
      const layers: Layer[] = [];
      const out = levelChannels(args, args.channel_mult[level]!);
      layers.push(resLayer(args, `${name}.0`, channels + skips.pop()!, out));
      channels = out;
      if (args.attention_resolutions.includes(ds)) {
        layers.push(attentionLayer(args, `${name}.${layers.length}`, channels, numHeads));
      }
      if (level > 0 && i === args.num_res_blocks) {
        ds /= 2;
        const upName = `${name}.${layers.length}`;
        layers.push(
          args.resblock_updown
            ? resLayer(args, upName, channels, channels, 'up')
            : {
                kind: 'up',
                name: upName,
                spec: args.conv_resample ? { in: channels, out: channels, kernel: 3, stride: 1 } : null,
              },
        );
      }
      output.push({ name, layers, channels });
    }
  }
  return {
    input,
    middle,
    output,
    norm: groupNorm.normalization(channels, true, args.norm_eps),
    conv: { in: channels, out: args.out_channels, kernel: 3, stride: 1 } as const,
  };
}

/** The layers of all blocks, in the order in which they run. */
export const layersOf = (args: UNetArguments): Layer[] => {
  const { input, middle, output } = blocks(args);
  return [...input, middle, ...output].flatMap((block) => block.layers);
};

/** All parameters, in the order of guided-diffusion's `state_dict`. */
export function parameters(args: UNetArguments): Parameter[] {
  const { input, middle, output, norm, conv } = blocks(args);
  const label = { name: 'label_emb.weight', shape: [args.num_classes ?? 0, embeddingChannels(args)] };
  return [
    ...timeEmbedParameters(args),
    ...(args.num_classes === null ? [] : [label]),
    ...blockParameters([...input, middle, ...output]),
    ...groupNorm.parameters(norm, 'out.0'),
    ...conv2d.parameters(conv, 'out.2'),
  ];
}

/** @returns [N, out_channels, H, W]: eps, and with learned variance as many channels of v after it */
export function forward(b: Builder, args: UNetArguments, inputs: UNetInputs, trace: Trace = () => {}): Activation {
  const { input, middle, output, norm, conv } = blocks(args);
  const { channels = null } = inputs;
  checkSize(inputs.x, args, channels?.length ?? args.in_channels);
  if ((args.num_classes === null) !== (inputs.labels === null)) {
    throw new Error(args.num_classes === null ? 'this U-Net takes no labels' : 'this U-Net needs labels');
  }

  const time = timeEmbed(b, inputs.timesteps);
  trace('time_embed', time);
  const { labels } = inputs;
  const embedding = labels ? b.graph.within('label_emb', () => addLabel(b, 'label_emb.weight', time, labels)) : time;
  const projections = resBlock.projectEmbeddings(b, residualBlocks([...input, middle, ...output]), embedding);

  const skips: Activation[] = [];
  let h = inputs.x;
  const run = (block: Block) => {
    h = blockForward(b, block, h, projections, block === input[0] ? channels : null);
    trace(block.name, h);
  };
  for (const block of input) {
    run(block);
    skips.push(h);
  }
  run(middle);
  for (const block of output) {
    h = b.graph.within(block.layers[0]!.name, () => concat(b.graph, [h, skips.pop()!]));
    run(block);
  }
  return b.graph.within('out', () => conv2d.forward(b, conv, 'out.2', groupNorm.forward(b, norm, 'out.0', h)));
}

/** Every skip connection must meet a tensor of its own size again. */
function checkSize(x: Activation, args: UNetArguments, channels: number): void {
  const factor = 2 ** (args.channel_mult.length - 1);
  const { h, w, c } = x.shape;
  if (c !== channels || h % factor !== 0 || w % factor !== 0) {
    throw new OptionError(
      `this U-Net takes [N, ${channels}, H, W] with H and W divisible by ${factor}, found ${describeShape(x.shape)}`,
    );
  }
}
