/**
 * @file ADM's attention pooling (from CLIP): a mean token asks all pixels.
 *
 *   tokens = [mean of x, x...] + positional embedding       y = c_proj(attention(qkv_proj(tokens))) of the mean token
 *
 * The positional embedding fixes the size of the input: `size` x `size` pixels.
 */

import tokensShader from '../../shaders/attention_pool/tokens.wgsl';
import tokensBackward from '../../shaders/attention_pool/tokens_backward.wgsl';
import { OptionError } from '../runtime/errors.ts';
import { type Activation, describeShape, quads } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import * as attention from './attention.ts';
import type { Builder, Parameter } from './builder.ts';
import * as linear from './linear.ts';

export interface AttentionPool {
  readonly size: number;
  readonly channels: number;
  readonly headChannels: number;
  readonly out: number;
}

export function parameters({ size, channels, out }: AttentionPool, name: string): Parameter[] {
  return [
    { name: `${name}.positional_embedding`, shape: [channels, size * size + 1] },
    ...linear.parameters({ in: channels, out: 3 * channels, taps: 1 }, `${name}.qkv_proj`),
    ...linear.parameters({ in: channels, out, taps: 1 }, `${name}.c_proj`),
  ];
}

/**
 * @param features is given what the mean token found before it is projected, [N, channels]; head by head, each padded to
 *   a multiple of 4
 * @returns [N, out], h = w = 1
 */
export function forward(
  b: Builder,
  spec: AttentionPool,
  name: string,
  x: Activation,
  features: (value: Activation) => Activation = (value) => value,
): Activation {
  const { size, channels, headChannels } = spec;
  const { h, w, c } = x.shape;
  if (h !== size || w !== size || c !== channels) {
    throw new OptionError(`${name} takes [N, ${channels}, ${size}, ${size}], found ${describeShape(x.shape)}`);
  }
  const head = { heads: channels / headChannels, width: headChannels };
  const maps = attention.channelMaps(head, 'new');
  const sequence = tokens(b, `${name}.positional_embedding`, x);
  const qkv = linear.forward(b, `${name}.qkv_proj`, sequence, { outMap: maps.qkv });
  const pooled = features(attention.forward(b.graph, head, qkv, 1));
  return linear.forward(b, `${name}.c_proj`, pooled, { inMap: maps.out });
}

function tokens(b: Builder, positionName: string, x: Activation): Activation {
  const { n, h, w, c } = x.shape;
  const position = b.weights.table(positionName, true);
  const y = b.graph.activation(positionName, { n, h: 1, w: h * w + 1, c });
  const sizes = { IMAGES: n, PIXELS: h * w, CHANNEL_QUADS: quads(c) };
  b.graph.append({
    name: positionName,
    inputs: [x],
    outputs: [y],
    lower: () => [
      kernelCall(tokensShader, {
        bind: { x, position, tokens: y },
        sizes,
        grid: lineGrid(y.bytes / 16, 64),
        cost: { flops: y.bytes / 4, bytes: 3 * y.bytes },
      }),
    ],
    adjoint: ({ outputs: [dTokens] }) => {
      const dx = b.graph.activation(`${positionName} gradient`, x.shape);
      b.graph.append({
        name: `${positionName} gradient`,
        inputs: [dTokens!],
        outputs: [dx],
        lower: () => [
          kernelCall(tokensBackward, {
            bind: { d_tokens: dTokens!, dx },
            sizes,
            grid: lineGrid(dx.bytes / 16, 64),
            cost: { flops: dx.bytes / 4, bytes: 3 * dx.bytes },
          }),
        ],
      });
      return [dx];
    },
  });
  return y;
}
