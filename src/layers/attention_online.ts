/**
 * @file Attention without storing scores: online softmax forward, scores made again from the log-sum-exp in the gradient.
 *
 * The gradient needs seven products of the scores' size (three for q, four for k and v), since nothing is kept.
 */
import backwardKeyValue from '../../shaders/attention/backward_key_value.wgsl';
import backwardQuery from '../../shaders/attention/backward_query.wgsl';
import attentionForward from '../../shaders/attention/forward.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { kernelCall } from '../runtime/shader.ts';
import { type AttentionCall, type AttentionWay, productFlops } from './attention_call.ts';

function layout({ target }: Graph, { images, tokens, queries, heads, headQuads, scale }: AttentionCall) {
  const QUADS = tileQuads(headQuads);
  const run = target.slowCompiler ? 1 : 2;
  const across = target.slowCompiler ? 2 : 4;
  return {
    QUADS,
    run,
    across,
    sizes: {
      IMAGES: images,
      TOKENS: tokens,
      QUERIES: queries,
      HEADS: heads,
      HEAD_QUADS: headQuads,
      SCALE: scale,
    },
    grid: (count: number) =>
      [Math.ceil(Math.ceil(count / run) / 64), images * heads, Math.ceil(headQuads / QUADS)] as const,
  };
}

/** Quads of a head that one invocation keeps in registers. Wider heads are split, each part repeating the scores. */
function tileQuads(headQuads: number): number {
  for (const quad of [1, 2, 4, 8]) if (headQuads <= quad) return quad;
  return 8;
}

export const online: AttentionWay = {
  name: 'online',
  note: 'no memory for scores: for few tokens, a single query, and where memory is short',
  fits: () => true,
  cost: () => 1,

  forward(graph, call) {
    const { qkv, out, lse, queries } = call;
    const { sizes, run, across, QUADS, grid } = layout(graph, call);
    return [
      kernelCall(attentionForward, {
        bind: { qkv, out, lse },
        sizes,
        tiles: { QUERY_RUN: run, KEYS: across, QUADS },
        grid: grid(queries),
        cost: { flops: 2 * productFlops(call), bytes: qkv.bytes + out.bytes },
      }),
    ];
  },

  backward(graph, call) {
    const { dOut, dQkv } = call;
    const { qkv, out, lse, tokens, images, heads, queries } = call;
    const { sizes, run, across, QUADS, grid } = layout(graph, call);
    const delta = graph.array('attention delta', images * heads * queries);
    const bytes = 2 * (qkv.bytes + out.bytes);
    return [
      kernelCall(backwardQuery, {
        bind: { qkv, out, lse, d_out: dOut, d_qkv: dQkv, delta },
        sizes,
        tiles: { QUERY_RUN: run, KEYS: across, QUADS },
        grid: grid(tokens),
        cost: { flops: 3 * productFlops(call), bytes },
      }),
      kernelCall(backwardKeyValue, {
        bind: { qkv, lse, d_out: dOut, delta, d_qkv: dQkv },
        sizes,
        tiles: { KEY_RUN: run, QUERY_TILE: across, QUADS },
        grid: grid(tokens),
        cost: { flops: 4 * productFlops(call), bytes },
      }),
    ];
  },
};
