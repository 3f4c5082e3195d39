/**
 * @file The downward half that ADM's U-Net and classifier share: what its blocks are, and how they run.
 *
 * A model is planned as a list of blocks with guided-diffusion's names first; parameters, operations and costs are all
 * read from that list.
 */
import type { Activation } from '../runtime/resources.ts';
import type { ChannelMap } from '../runtime/weights.ts';
import * as attentionBlock from './attention_block.ts';
import type { Builder, Parameter } from './builder.ts';
import * as conv2d from './conv2d.ts';
import { silu } from './elementwise.ts';
import * as linear from './linear.ts';
import * as resBlock from './res_block.ts';
import { downsample, upsample, window } from './resample.ts';

/** One layer inside a block of a model. */
export type Layer =
  | { readonly kind: 'conv'; readonly name: string; readonly spec: conv2d.Conv2d }
  | { readonly kind: 'res'; readonly name: string; readonly spec: resBlock.ResBlock }
  | { readonly kind: 'attention'; readonly name: string; readonly spec: attentionBlock.AttentionBlock }
  /** Resampling outside a residual block; with a convolution where `spec` is given. */
  | { readonly kind: 'up'; readonly name: string; readonly spec: conv2d.Conv2d | null }
  | { readonly kind: 'down'; readonly name: string; readonly spec: conv2d.Conv2d | null; readonly padding: 0 | 1 };

/** One entry of `input_blocks`, `middle_block` or `output_blocks`. */
export interface Block {
  readonly name: string;
  readonly layers: readonly Layer[];
  /** Channels of the result. */
  readonly channels: number;
}

/** The arguments that U-Net and classifier have in common, named as in guided-diffusion. */
export interface EncoderArguments {
  readonly image_size: number;
  readonly in_channels: number;
  readonly model_channels: number;
  readonly out_channels: number;
  readonly num_res_blocks: number;
  /** Downsampling factors (not pixel sizes) at which attention is used. */
  readonly attention_resolutions: readonly number[];
  readonly channel_mult: readonly number[];
  readonly conv_resample: boolean;
  readonly num_heads: number;
  readonly num_head_channels: number;
  readonly use_scale_shift_norm: boolean;
  readonly resblock_updown: boolean;
  readonly use_new_attention_order: boolean;
  /** Residuals are scaled by 1 / sqrt(2), an ablation of the paper (table 1); no released model uses it. */
  readonly rescale_residual: boolean;
  /** Added to variances in norms; guided-diffusion's 1e-5 if absent. */
  readonly norm_eps?: number;
  /**
   * Zeros before and behind the image in downsampling convolutions: guided-diffusion's 1, or 0 for none before it and one
   * row and column behind it, as the models of Ho et al. 2020 have it. 1 if absent.
   */
  readonly downsample_padding?: 0 | 1;
  /** Timestep frequencies are exp(-ln(10^4) * i / (half - shift)); guided-diffusion's 0 if absent. */
  readonly frequency_shift?: 0 | 1;
}

/** Width of a level: truncated, as the original does. */
export const levelChannels = (args: EncoderArguments, mult: number): number => Math.trunc(mult * args.model_channels);

export const embeddingChannels = (args: EncoderArguments): number => 4 * args.model_channels;

export function resLayer(
  args: EncoderArguments,
  name: string,
  channels: number,
  out: number,
  resample: resBlock.ResBlock['resample'] = null,
): Layer {
  const scaleShift = args.use_scale_shift_norm;
  const rescale = args.rescale_residual;
  const eps = args.norm_eps;
  const spec = {
    channels,
    out,
    embedding: embeddingChannels(args),
    scaleShift,
    resample,
    convSkip: false,
    rescale,
    eps,
  };
  return { kind: 'res', name, spec };
}

export function attentionLayer(
  args: EncoderArguments,
  name: string,
  channels: number,
  numHeads = args.num_heads,
): Layer {
  const heads = attentionBlock.headCount(channels, numHeads, args.num_head_channels);
  return {
    kind: 'attention',
    name,
    spec: {
      channels,
      heads,
      order: args.use_new_attention_order ? 'new' : 'legacy',
      rescale: args.rescale_residual,
      eps: args.norm_eps,
    },
  };
}

export interface Encoder {
  readonly input: readonly Block[];
  readonly middle: Block;
  /** Factor by which the middle is smaller than the image. */
  readonly factor: number;
}

export function encoderBlocks(args: EncoderArguments): Encoder {
  const input: Block[] = [];
  const push = (channels: number, make: (name: string) => Layer[]) => {
    const name = `input_blocks.${input.length}`;
    input.push({ name, channels, layers: make(name) });
  };
  let channels = levelChannels(args, args.channel_mult[0]!);
  let factor = 1;
  push(channels, (name) => [
    { kind: 'conv', name: `${name}.0`, spec: { in: args.in_channels, out: channels, kernel: 3, stride: 1 } },
  ]);
  args.channel_mult.forEach((mult, level) => {
    for (let i = 0; i < args.num_res_blocks; i++) {
      const before = channels;
      channels = levelChannels(args, mult);
      push(channels, (name) => [
        resLayer(args, `${name}.0`, before, channels),
        ...(args.attention_resolutions.includes(factor) ? [attentionLayer(args, `${name}.1`, channels)] : []),
      ]);
    }
    if (level === args.channel_mult.length - 1) return;
    factor *= 2;
    push(channels, (name) => [
      args.resblock_updown
        ? resLayer(args, `${name}.0`, channels, channels, 'down')
        : {
            kind: 'down',
            name: `${name}.0`,
            spec: args.conv_resample ? { in: channels, out: channels, kernel: 3, stride: 2 } : null,
            padding: args.downsample_padding ?? 1,
          },
    ]);
  });
  const middle: Block = {
    name: 'middle_block',
    channels,
    layers: [
      resLayer(args, 'middle_block.0', channels, channels),
      attentionLayer(args, 'middle_block.1', channels),
      resLayer(args, 'middle_block.2', channels, channels),
    ],
  };
  return { input, middle, factor };
}

export function timeEmbedParameters(args: EncoderArguments): Parameter[] {
  const width = embeddingChannels(args);
  return [
    ...linear.parameters({ in: args.model_channels, out: width, taps: 0 }, 'time_embed.0'),
    ...linear.parameters({ in: width, out: width, taps: 0 }, 'time_embed.2'),
  ];
}

/** @param timesteps [N, model_channels], made by `timestepEmbedding` */
export function timeEmbed(b: Builder, timesteps: Activation): Activation {
  return b.graph.within('time_embed', () =>
    linear.forward(b, 'time_embed.2', silu(b.graph, linear.forward(b, 'time_embed.0', timesteps))),
  );
}

export function blockParameters(blocks: readonly Block[]): Parameter[] {
  return blocks.flatMap(({ layers }) => layers.flatMap(layerParameters));
}

function layerParameters(layer: Layer): Parameter[] {
  switch (layer.kind) {
    case 'conv':
      return conv2d.parameters(layer.spec, layer.name);
    case 'res':
      return resBlock.parameters(layer.spec, layer.name);
    case 'attention':
      return attentionBlock.parameters(layer.spec, layer.name);
    case 'up':
      return layer.spec ? conv2d.parameters(layer.spec, `${layer.name}.conv`) : [];
    case 'down':
      return layer.spec ? conv2d.parameters(layer.spec, `${layer.name}.op`) : [];
  }
}

/** The residual blocks among `blocks`, whose embeddings are projected together. */
export function residualBlocks(blocks: readonly Block[]): { spec: resBlock.ResBlock; name: string }[] {
  return blocks.flatMap(({ layers }) =>
    layers.flatMap((l) => (l.kind === 'res' ? [{ spec: l.spec, name: l.name }] : [])),
  );
}

/** @param channels order and padding of x's channels, for a block that begins with a convolution of the model's input */
export function blockForward(
  b: Builder,
  block: Block,
  x: Activation,
  projections: resBlock.Projections,
  channels: ChannelMap | null = null,
): Activation {
  return block.layers.reduce(
    (h, layer) => b.graph.within(layer.name, () => layerForward(b, layer, h, projections, channels)),
    x,
  );
}

function layerForward(
  b: Builder,
  layer: Layer,
  x: Activation,
  projections: resBlock.Projections,
  channels: ChannelMap | null,
): Activation {
  const { name } = layer;
  switch (layer.kind) {
    case 'conv':
      return conv2d.forward(b, layer.spec, name, x, { inMap: channels });
    case 'res':
      return resBlock.forward(b, layer.spec, name, x, projections);
    case 'attention':
      return attentionBlock.forward(b, layer.spec, name, x);
    case 'up': {
      const large = upsample(b.graph, x);
      return layer.spec ? conv2d.forward(b, layer.spec, `${name}.conv`, large) : large;
    }
    case 'down':
      if (!layer.spec) return downsample(b.graph, x);
      return layer.padding === 1 ? conv2d.forward(b, layer.spec, `${name}.op`, x) : unpadded(b, layer.spec, name, x);
  }
}

/**
 * The downsampling convolution whose windows begin at the even pixels, where the padded one's begin a pixel before: the
 * same on the image a pixel further in, without its first row and column.
 */
function unpadded(b: Builder, spec: conv2d.Conv2d, name: string, x: Activation): Activation {
  const { h, w } = x.shape;
  const inner = window(b.graph, x, { height: h + 2, width: w + 2, top: -1, left: -1 });
  const y = conv2d.forward(b, spec, `${name}.op`, inner);
  return window(b.graph, y, { height: h >> 1, width: w >> 1, top: 1, left: 1 });
}
