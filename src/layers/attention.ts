/**
 * @file Multi-head attention on a sequence that holds q, k and v of every head side by side.
 *
 *   out = softmax(q k^T / sqrt(width)) v
 *
 * The operation knows one layout, [heads, (q, k, v), width padded to a multiple of 4]. The two orders in which ADM's
 * checkpoints store these channels, and odd widths, are settled when the weights around it are packed: `channelMaps`.
 * Saved for the backward pass: the input, the output and the log-sum-exp of each row.
 */
import backwardKeyValue from '../../shaders/attention/backward_key_value.wgsl';
import backwardQuery from '../../shaders/attention/backward_query.wgsl';
import attentionForward from '../../shaders/attention/forward.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, quads } from '../runtime/resources.ts';
import { type Cost, kernelCall } from '../runtime/shader.ts';
import type { ChannelMap } from '../runtime/weights.ts';

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
  const sizes = {
    IMAGES: n,
    TOKENS: tokens,
    QUERIES: queries,
    HEADS: heads,
    HEAD_QUADS: headQuads,
    SCALE: 1 / Math.sqrt(width),
  };
  const QUADS = tileQuads(headQuads);
  const run = graph.target.slowCompiler ? 1 : 2;
  const across = graph.target.slowCompiler ? 2 : 4;
  const grid = (count: number) =>
    [Math.ceil(Math.ceil(count / run) / 64), n * heads, Math.ceil(headQuads / QUADS)] as const;
  /** One product of the scores' size. */
  const product = 2 * n * heads * queries * tokens * headQuads * 4;

  const outShape =
    queries === tokens ? { ...qkv.shape, c: heads * headQuads * 4 } : { n, h: 1, w: queries, c: heads * headQuads * 4 };
  const out = graph.activation('attention', outShape);
  const lse = graph.array('attention lse', n * heads * queries);
  graph.append({
    name: 'attention',
    inputs: [qkv],
    outputs: [out, lse],
    lower: () => [
      kernelCall(attentionForward, {
        bind: { qkv, out, lse },
        sizes,
        tiles: { QUERY_RUN: run, KEYS: across, QUADS },
        grid: grid(queries),
        cost: { flops: 2 * product, bytes: qkv.bytes + out.bytes },
      }),
    ],
    adjoint: ({ outputs: [dOut] }) => {
      const dQkv = graph.activation('attention gradient', qkv.shape);
      const delta = graph.array('attention delta', n * heads * queries);
      graph.append({
        name: 'attention gradient',
        inputs: [qkv, out, lse, dOut!],
        outputs: [dQkv, delta],
        lower: () => [
          kernelCall(backwardQuery, {
            bind: { qkv, out, lse, d_out: dOut!, d_qkv: dQkv, delta },
            sizes,
            tiles: { QUERY_RUN: run, KEYS: across, QUADS },
            grid: grid(tokens),
            cost: { flops: 3 * product, bytes: 2 * (qkv.bytes + out.bytes) },
          }),
          kernelCall(backwardKeyValue, {
            bind: { qkv, lse, d_out: dOut!, delta, d_qkv: dQkv },
            sizes,
            tiles: { KEY_RUN: run, QUERY_TILE: across, QUADS },
            grid: grid(tokens),
            cost: { flops: 4 * product, bytes: 2 * (qkv.bytes + out.bytes) },
          }),
        ],
      });
      return [dQkv];
    },
  });
  return out;
}

/** Quads of a head that one invocation keeps in registers. Wider heads are split, each part repeating the scores. */
function tileQuads(headQuads: number): number {
  for (const quad of [1, 2, 4, 8]) if (headQuads <= quad) return quad;
  return 8;
}

/** Floating-point operations of the forward pass's two products, for `tokens` tokens. */
export function cost({ heads, width }: Attention, n: number, tokens: number): Cost {
  return { flops: 4 * n * heads * tokens * tokens * width, bytes: 16 * n * tokens * heads * quads(width) * 4 };
}
