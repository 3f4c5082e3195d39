/**
 * @file ADM's residual block, with its embedding, and optionally resampling inside it.
 *
 *   h = conv(resample(silu(norm(x))))
 *   h = conv(silu(norm(h) * (1 + scale) + shift))      use_scale_shift_norm, scale and shift from the embedding
 *   h = conv(silu(norm(h + e)))                        otherwise
 *   y = skip(resample(x)) + h
 */
import type { Activation } from '../runtime/resources.ts';
import type { Builder, Parameter } from './builder.ts';
import * as conv2d from './conv2d.ts';
import { scale, silu } from './elementwise.ts';
import * as groupNorm from './group_norm.ts';
import * as linear from './linear.ts';
import { upsample } from './resample.ts';

export interface ResBlock {
  readonly channels: number;
  /** Channels of the embedding that the block projects. */
  readonly embedding: number;
  readonly out: number;
  readonly scaleShift: boolean;
  readonly resample: 'up' | 'down' | null;
  /** A 3 x 3 instead of a 1 x 1 convolution on the skip path, where the number of channels changes. */
  readonly convSkip: boolean;
  /** y is divided by sqrt(2), so that its variance is that of its parts. */
  readonly rescale: boolean;
  /** Of the norms; 1e-5 if absent. */
  readonly eps?: number | undefined;
}

const layers = ({ channels, embedding, out, scaleShift, convSkip, eps }: ResBlock) => ({
  inNorm: groupNorm.normalization(channels, true, eps),
  inConv: { in: channels, out, kernel: 3, stride: 1 } as const,
  projection: { in: embedding, out: scaleShift ? 2 * out : out, taps: 0 } as const,
  outNorm: groupNorm.normalization(out, true, eps),
  outConv: { in: out, out, kernel: 3, stride: 1 } as const,
  skip: out === channels ? null : ({ in: channels, out, kernel: convSkip ? 3 : 1, stride: 1 } as const),
});

export function parameters(spec: ResBlock, name: string): Parameter[] {
  const { inNorm, inConv, projection, outNorm, outConv, skip } = layers(spec);
  return [
    ...groupNorm.parameters(inNorm, `${name}.in_layers.0`),
    ...conv2d.parameters(inConv, `${name}.in_layers.2`),
    ...linear.parameters(projection, `${name}.emb_layers.1`),
    ...groupNorm.parameters(outNorm, `${name}.out_layers.0`),
    ...conv2d.parameters(outConv, `${name}.out_layers.3`),
    ...(skip ? conv2d.parameters(skip, `${name}.skip_connection`) : []),
  ];
}

/** What each block takes of a shared projection, by the block's name. */
export type Projections = ReadonlyMap<string, groupNorm.Embedding>;

/**
 * The `emb_layers` of all blocks of a model as one product: silu(embedding) times the stacked weights.
 *
 * @param embedding [N, C], h = w = 1
 */
export function projectEmbeddings(
  b: Builder,
  blocks: readonly { readonly spec: ResBlock; readonly name: string }[],
  embedding: Activation,
): Projections {
  const names = blocks.map(({ name }) => `${name}.emb_layers.1`);
  const tensor = b.graph.within('emb_layers', () => linear.forward(b, names, silu(b.graph, embedding)));
  const projections = new Map<string, groupNorm.Embedding>();
  let offset = 0;
  for (const { spec, name } of blocks) {
    projections.set(name, { tensor, offset, mode: spec.scaleShift ? 'scale-shift' : 'add' });
    offset += layers(spec).projection.out;
  }
  return projections;
}

export function forward(b: Builder, spec: ResBlock, name: string, x: Activation, projections: Projections): Activation {
  const { inNorm, inConv, outNorm, outConv, skip } = layers(spec);
  const embedding = projections.get(name);
  if (!embedding) throw new Error(`no embedding was projected for ${name}`);
  const resample = (t: Activation) => (spec.resample === 'up' ? upsample(b.graph, t) : t);
  const norm = `${name}.in_layers.0`;
  const { normed, straight } =
    spec.resample === 'down'
      ? groupNorm.forwardDown(b, inNorm, norm, x)
      : { normed: resample(groupNorm.forward(b, inNorm, norm, x)), straight: resample(x) };
  let h = conv2d.forward(b, inConv, `${name}.in_layers.2`, normed);
  h = groupNorm.forward(b, outNorm, `${name}.out_layers.0`, h, embedding);
  const residual = skip ? conv2d.forward(b, skip, `${name}.skip_connection`, straight) : straight;
  const y = conv2d.forward(b, outConv, `${name}.out_layers.3`, h, { residual });
  return spec.rescale ? scale(b.graph, y, Math.SQRT1_2) : y;
}
