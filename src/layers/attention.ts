/**
 * @file Multi-head attention on a sequence that holds q, k and v of every head side by side.
 *
 *   out = softmax(q k^T / sqrt(width)) v
 *
 * The operation knows one layout, [heads, (q, k, v), width padded to a multiple of 4]. The two orders in which ADM's
 * checkpoints store these channels, and odd widths, are settled when the weights around it are packed: `channelMaps`.
 * Saved for the backward pass: the input, the output and the log-sum-exp of each row. There are three ways to the same
 * result: attention_online.ts never stores a score, attention_stepwise.ts stores them and runs large tiles over them,
 * attention_tiled.ts keeps tiles of them in workgroup memory.
 */
import type { Graph } from '../runtime/graph.ts';
import { type Activation, quads } from '../runtime/resources.ts';
import type { Cost } from '../runtime/shader.ts';
import { type CallShape, familyOfWays, variantsOf } from '../runtime/variants.ts';
import type { ChannelMap } from '../runtime/weights.ts';
import type { AttentionCall, AttentionGradientCall, AttentionWay } from './attention_call.ts';
import { matrix } from './attention_matrix.ts';
import { online } from './attention_online.ts';
import { stepwise } from './attention_stepwise.ts';
import { tiled } from './attention_tiled.ts';

export interface Attention {
  readonly heads: number;
  /** Channels of a head. */
  readonly width: number;
}

/** Order of the channels in a checkpoint: legacy is heads x (q, k, v) x width, new is (q, k, v) x heads x width. */
export type QkvOrder = 'legacy' | 'new';

/**
 * Where the packed channels come from: of q, k and v together (for the layer that makes them), and of the output (for
 * the layer that reads it). Null where the packed order is the stored one.
 */
export function channelMaps(
  { heads, width }: Attention,
  order: QkvOrder,
): { qkv: ChannelMap | null; out: ChannelMap | null } {
  const padded = quads(width) * 4;
  if (padded === width && (order === 'legacy' || heads === 1)) return { qkv: null, out: null };
  const qkv = new Int32Array(heads * 3 * padded).fill(-1);
  const out = new Int32Array(heads * padded).fill(-1);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < width; i++) {
      for (let part = 0; part < 3; part++) {
        const stored = order === 'legacy' ? (head * 3 + part) * width + i : (part * heads + head) * width + i;
        qkv[(head * 3 + part) * padded + i] = stored;
      }
      out[head * padded + i] = head * width + i;
    }
  }
  return { qkv, out: padded === width ? null : out };
}

const WAYS: readonly AttentionWay[] = [online, ...tiled, ...stepwise, matrix];

const shapeFor =
  (form: string) =>
  ({ images, heads, queries, tokens, headQuads }: AttentionCall): CallShape => ({
    form,
    sizes: [images * heads, queries, tokens, headQuads * 4],
  });

const FORWARD = familyOfWays<AttentionCall, AttentionWay>({
  kind: 'attention',
  ways: WAYS,
  lower: (way, graph, call) => way.forward(graph, call),
  shape: shapeFor('forward'),
});
const GRADIENT = familyOfWays<AttentionGradientCall, AttentionWay>({
  kind: 'attention',
  ways: WAYS,
  lower: (way, graph, call) => way.backward(graph, call),
  shape: shapeFor('gradient'),
});

/**
 * @param qkv [N, T] tokens (h * w of them) of heads * 3 * padded width channels
 * @param queries how many tokens, from the first on, are answered; all by default
 * @returns [N, queries] tokens of heads * padded width channels
 */
export function forward(
  graph: Graph,
  { heads, width }: Attention,
  qkv: Activation,
  queries = qkv.shape.h * qkv.shape.w,
): Activation {
  const headQuads = quads(width);
  const { n, h, w, c } = qkv.shape;
  const tokens = h * w;
  if (c !== heads * 3 * headQuads * 4) {
    throw new Error(`attention of ${heads} heads of ${width} takes ${heads * 3 * headQuads * 4} channels, found ${c}`);
  }
  const channels = heads * headQuads * 4;
  const outShape = queries === tokens ? { ...qkv.shape, c: channels } : { n, h: 1, w: queries, c: channels };
  const out = graph.activation('attention', outShape);
  const lse = graph.array('attention lse', n * heads * queries);
  const scale = 1 / Math.sqrt(width);
  const call: AttentionCall = { images: n, tokens, queries, heads, headQuads, scale, qkv, out, lse };
  graph.append({
    name: 'attention',
    inputs: [qkv],
    outputs: [out, lse],
    ...variantsOf(graph, FORWARD, call),
    adjoint: ({ outputs: [dOut] }) => {
      const dQkv = graph.activation('attention gradient', qkv.shape);
      graph.append({
        name: 'attention gradient',
        inputs: [qkv, out, lse, dOut!],
        outputs: [dQkv],
        ...variantsOf(graph, GRADIENT, { ...call, dOut: dOut!, dQkv }),
      });
      return [dQkv];
    },
  });
  return out;
}

/** Floating-point operations of the forward pass's two products, for `tokens` tokens. */
export function cost({ heads, width }: Attention, n: number, tokens: number): Cost {
  return { flops: 4 * n * heads * tokens * tokens * width, bytes: 16 * n * tokens * heads * quads(width) * 4 };
}
