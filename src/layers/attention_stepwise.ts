/**
 * @file Attention in steps, with the scores in memory: two products forward, five in the gradient, each with large tiles.
 *
 * For adapters where a load costs several multiply-adds, so that it pays to load a row once for many results. The scores
 * take 4 * N * heads * queries * tokens bytes while they are used; nothing of them is saved for the backward pass.
 */
import deltaShader from '../../shaders/attention/delta.wgsl';
import mixShader from '../../shaders/attention/mix.wgsl';
import mixTransposedShader from '../../shaders/attention/mix_transposed.wgsl';
import scoresShader from '../../shaders/attention/scores.wgsl';
import softmaxShader from '../../shaders/attention/softmax.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, quads, type Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import { type AttentionCall, type AttentionWay, productFlops } from './attention_call.ts';

/** Rows of tokens in a tensor: which one, and where a head's quads of a token begin. */
interface Rows {
  readonly tensor: Activation;
  readonly start: number;
  readonly tokens: number;
  /** Quads from one token, and from one head, to the next. */
  readonly token: number;
  readonly head: number;
}

const part = (call: AttentionCall, tensor: Activation, index: 0 | 1 | 2): Rows => {
  const { tokens, heads, headQuads } = call;
  return { tensor, start: index * headQuads, tokens, token: heads * 3 * headQuads, head: 3 * headQuads };
};

const answers = (call: AttentionCall, tensor: Activation): Rows => {
  const { queries, heads, headQuads } = call;
  return { tensor, start: 0, tokens: queries, token: heads * headQuads, head: headQuads };
};

const scoreBytes = ({ images, heads, queries, tokens }: AttentionCall): number =>
  16 * images * heads * queries * quads(tokens);

const scoresTensor = (graph: Graph, call: AttentionCall, name: string): Tensor =>
  graph.array(name, scoreBytes(call) / 4);

const common = ({ tokens, queries, heads, headQuads, images }: AttentionCall) => ({
  TOKENS: tokens,
  QUERIES: queries,
  HEADS: heads,
  HEAD_QUADS: headQuads,
  KEY_QUADS: quads(tokens),
  HEAD_ROWS: images * heads,
});

/** Compilers that take seconds for much unrolled code get smaller tiles. */
const tilesFor = ({ target }: Graph, headQuads: number) => ({
  run: target.slowCompiler ? 4 : 8,
  keys: target.slowCompiler ? 1 : 4,
  quads: Math.min(target.slowCompiler ? 2 : 4, headQuads),
});

/** Invocations of a workgroup: with large tiles there are so few that one of 64 would leave a CPU's cores idle. */
const THREADS = 8;

/** Scores larger than this are not stored. */
const MAX_SCORE_BYTES = 64 * 2 ** 20;

/** Below so many tokens one dispatch is worth more than large tiles. */
const FEW_TOKENS = 16;

/** MODE of shaders/attention/scores.wgsl. */
const MODES = { scores: 0, weights: 1, gradient: 2 } as const;

function products(
  graph: Graph,
  call: AttentionCall,
  mode: keyof typeof MODES,
  a: Rows,
  b: Rows,
  rows: Tensor | null,
  scores: Tensor,
): KernelCall {
  const { run, keys } = tilesFor(graph, call.headQuads);
  const tiles = Math.ceil(call.queries / run) * Math.ceil(quads(call.tokens) / keys);
  return kernelCall(scoresShader, {
    bind: { a: a.tensor, b: b.tensor, rows, scores },
    sizes: {
      ...common(call),
      A_START: a.start,
      A_TOKENS: a.tokens,
      A_TOKEN: a.token,
      A_HEAD: a.head,
      B_START: b.start,
      B_TOKEN: b.token,
      B_HEAD: b.head,
      SCALE: call.scale,
    },
    switches: { MODE: MODES[mode], THREADS },
    tiles: { RUN: run, KEYS: keys },
    grid: [Math.ceil(tiles / THREADS), call.images * call.heads, 1],
    cost: { flops: productFlops(call), bytes: a.tensor.bytes + b.tensor.bytes + scoreBytes(call) },
  });
}

function mix(graph: Graph, call: AttentionCall, scores: Tensor, b: Rows, total: Tensor | null, y: Rows): KernelCall {
  const { run, quads: own } = tilesFor(graph, call.headQuads);
  const tiles = Math.ceil(y.tokens / run) * Math.ceil(call.headQuads / own);
  return kernelCall(mixShader, {
    bind: { scores, b: b.tensor, total, y: y.tensor },
    sizes: {
      ...common(call),
      B_START: b.start,
      B_TOKEN: b.token,
      B_HEAD: b.head,
      Y_START: y.start,
      Y_TOKENS: y.tokens,
      Y_TOKEN: y.token,
      Y_HEAD: y.head,
      DIVIDE: Number(total !== null),
    },
    switches: { THREADS },
    tiles: { RUN: run, QUADS: own },
    grid: [Math.ceil(tiles / THREADS), call.images * call.heads, 1],
    cost: { flops: productFlops(call), bytes: b.tensor.bytes + y.tensor.bytes + scoreBytes(call) },
  });
}

function mixTransposed(graph: Graph, call: AttentionCall, scores: Tensor, a: Rows, y: Rows): KernelCall {
  const { keys, quads: own } = tilesFor(graph, call.headQuads);
  const tiles = Math.ceil(quads(call.tokens) / keys) * Math.ceil(call.headQuads / own);
  return kernelCall(mixTransposedShader, {
    bind: { scores, a: a.tensor, y: y.tensor },
    sizes: {
      ...common(call),
      A_START: a.start,
      A_TOKENS: a.tokens,
      A_TOKEN: a.token,
      A_HEAD: a.head,
      Y_START: y.start,
      Y_TOKEN: y.token,
      Y_HEAD: y.head,
    },
    switches: { THREADS },
    tiles: { KEYS: keys, QUADS: own },
    grid: [Math.ceil(tiles / THREADS), call.images * call.heads, 1],
    cost: { flops: productFlops(call), bytes: a.tensor.bytes + y.tensor.bytes + scoreBytes(call) },
  });
}

export const stepwise: AttentionWay = {
  name: 'stepwise',
  note: 'large tiles over stored scores: for CPU adapters',
  fits: (_target, call) => scoreBytes(call) <= MAX_SCORE_BYTES,

  // On a CPU loads are dear and memory is there; on a GPU it is the other way round.
  cost: ({ adapter }, { queries, tokens }) => (adapter === 'cpu' && queries > 1 && tokens >= FEW_TOKENS ? 0.5 : 2),

  forward(graph, call) {
    const { qkv, out, lse, images, heads, queries } = call;
    const scores = scoresTensor(graph, call, 'attention scores');
    const total = graph.array('attention total', images * heads * queries);
    const rows = images * heads * queries;
    return [
      products(graph, call, 'scores', part(call, qkv, 0), part(call, qkv, 1), null, scores),
      kernelCall(softmaxShader, {
        bind: { scores, lse, total },
        sizes: { ROWS: rows, KEY_QUADS: quads(call.tokens) },
        switches: { THREADS },
        grid: lineGrid(rows, THREADS),
        cost: { flops: 4 * (scoreBytes(call) / 4), bytes: 3 * scoreBytes(call) },
      }),
      mix(graph, call, scores, part(call, qkv, 2), total, answers(call, out)),
    ];
  },

  backward(graph, call) {
    const { dOut, dQkv } = call;
    const { qkv, out, lse, images, heads, queries, headQuads } = call;
    const weights = scoresTensor(graph, call, 'attention weights');
    const delta = graph.array('attention delta', images * heads * queries);
    const rows = images * heads * queries;
    const [q, k, v] = [part(call, qkv, 0), part(call, qkv, 1), part(call, qkv, 2)];
    return [
      kernelCall(deltaShader, {
        bind: { out, d_out: dOut, delta },
        sizes: { QUERIES: queries, HEADS: heads, HEAD_QUADS: headQuads, ROWS: rows },
        grid: lineGrid(rows, 64),
        cost: { flops: 2 * (out.bytes / 4), bytes: 2 * out.bytes },
      }),
      products(graph, call, 'weights', q, k, lse, weights),
      mixTransposed(graph, call, weights, answers(call, dOut), part(call, dQkv, 2)),
      // From here on the weights are the gradient of the scores, in place.
      products(graph, call, 'gradient', answers(call, dOut), v, delta, weights),
      mix(graph, call, weights, k, null, part(call, dQkv, 0)),
      mixTransposed(graph, call, weights, q, part(call, dQkv, 1)),
    ];
  },
};
