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

/** Rows of scores: the queries of all heads. */
const scoreRows = ({ images, heads, queries }: AttentionCall): number => images * heads * queries;

const scoreBytes = (call: AttentionCall): number => 16 * scoreRows(call) * quads(call.tokens);

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

/** What one invocation makes: queries, times quads of keys (in scores) or of the head (in what is made of them). */
interface Tile {
  readonly run: number;
  readonly quads: number;
  /** What it should cost on a CPU, where the way without scores costs 1. */
  readonly cost: number;
}

const TILES: readonly Tile[] = [
  { run: 16, quads: 4, cost: 0.6 },
  { run: 8, quads: 4, cost: 0.5 },
  { run: 8, quads: 2, cost: 0.7 },
  { run: 4, quads: 2, cost: 0.8 },
];

/** Invocations of a workgroup: with large tiles there are so few that one of 64 would leave a CPU's cores idle. */
const THREADS = 8;

/** Scores larger than this are not stored. */
const MAX_SCORE_BYTES = 64 * 2 ** 20;

/** More sums of vec4f than this leave a GPU's registers no room. */
const GPU_SUMS = 32;

/** With 64 sums the two kernels take lavapipe 6.7 s at their first dispatch, with 8 they take 0.9 s. */
const SLOW_COMPILER_SUMS = 16;

/** Below so many tokens one dispatch is worth more than large tiles. */
const FEW_TOKENS = 16;

/** MODE of shaders/attention/scores.wgsl. */
const MODES = { scores: 0, weights: 1, gradient: 2 } as const;

/** Tiles of keys, each of which leaves the largest score of a row. */
const keyTiles = (tile: Tile, call: AttentionCall): number => Math.ceil(quads(call.tokens) / tile.quads);

/** Quads of the head that a tile takes. */
const headTile = (tile: Tile, { headQuads }: AttentionCall): number => Math.min(tile.quads, headQuads);

function products(
  tile: Tile,
  call: AttentionCall,
  mode: keyof typeof MODES,
  a: Rows,
  b: Rows,
  { rows = null, scores, peaks = null }: { rows?: Tensor | null; scores: Tensor; peaks?: Tensor | null },
): KernelCall {
  const tiles = Math.ceil(call.queries / tile.run) * keyTiles(tile, call);
  return kernelCall(scoresShader, {
    bind: { a: a.tensor, b: b.tensor, rows, scores, peaks },
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
    tiles: { RUN: tile.run, KEYS: tile.quads },
    grid: [Math.ceil(tiles / THREADS), call.images * call.heads, 1],
    cost: { flops: productFlops(call), bytes: a.tensor.bytes + b.tensor.bytes + scoreBytes(call) },
  });
}

/** @param softmax what the softmax over the scores reads and leaves; null if there is none to be taken */
function mix(
  tile: Tile,
  call: AttentionCall,
  scores: Tensor,
  b: Rows,
  softmax: { peaks: Tensor; lse: Tensor } | null,
  y: Rows,
): KernelCall {
  const own = headTile(tile, call);
  const parts = Math.ceil(call.headQuads / own);
  const exponentials = softmax ? (8 * parts * scoreBytes(call)) / 4 : 0;
  return kernelCall(mixShader, {
    bind: { scores, peaks: softmax?.peaks ?? null, b: b.tensor, lse: softmax?.lse ?? null, y: y.tensor },
    sizes: {
      ...common(call),
      KEY_TILES: keyTiles(tile, call),
      B_START: b.start,
      B_TOKEN: b.token,
      B_HEAD: b.head,
      Y_START: y.start,
      Y_TOKENS: y.tokens,
      Y_TOKEN: y.token,
      Y_HEAD: y.head,
    },
    switches: { SOFTMAX: Number(softmax !== null), THREADS },
    tiles: { RUN: tile.run, QUADS: own },
    grid: [Math.ceil((Math.ceil(y.tokens / tile.run) * parts) / THREADS), call.images * call.heads, 1],
    cost: {
      flops: productFlops(call) + exponentials,
      bytes: b.tensor.bytes + y.tensor.bytes + parts * scoreBytes(call),
    },
  });
}

function mixTransposed(tile: Tile, call: AttentionCall, scores: Tensor, a: Rows, y: Rows): KernelCall {
  const own = headTile(tile, call);
  const tiles = keyTiles(tile, call) * Math.ceil(call.headQuads / own);
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
    tiles: { KEYS: tile.quads, QUADS: own },
    grid: [Math.ceil(tiles / THREADS), call.images * call.heads, 1],
    cost: { flops: productFlops(call), bytes: a.tensor.bytes + y.tensor.bytes + scoreBytes(call) },
  });
}

export const stepwise: readonly AttentionWay[] = TILES.map((tile) => ({
  name: `stepwise ${tile.run}x${tile.quads}`,
  note: 'large tiles over stored scores: for CPU adapters',
  fits: ({ adapter, slowCompiler }, call) =>
    scoreBytes(call) <= MAX_SCORE_BYTES &&
    (tile.run <= 4 || tile.run < 2 * call.queries) &&
    tile.run * tile.quads <=
      (adapter === 'gpu' ? GPU_SUMS : slowCompiler ? SLOW_COMPILER_SUMS : Number.POSITIVE_INFINITY),

  // On a CPU loads are dear and memory is there; on a GPU it is the other way round.
  cost: ({ adapter }, { queries, tokens }) =>
    adapter === 'cpu' && queries > 1 && tokens >= FEW_TOKENS ? tile.cost : 1 + tile.cost,

  forward(graph, call) {
    const { qkv, out, lse } = call;
    const scores = scoresTensor(graph, call, 'attention scores');
    const peaks = graph.array('attention peaks', scoreRows(call) * keyTiles(tile, call));
    return [
      products(tile, call, 'scores', part(call, qkv, 0), part(call, qkv, 1), { scores, peaks }),
      mix(tile, call, scores, part(call, qkv, 2), { peaks, lse }, answers(call, out)),
    ];
  },

  backward(graph, call) {
    const { dOut, dQkv } = call;
    const { qkv, out, lse, heads, queries, headQuads } = call;
    const scores = scoresTensor(graph, call, 'attention weights');
    const rows = scoreRows(call);
    const delta = graph.array('attention delta', rows);
    const [q, k, v] = [part(call, qkv, 0), part(call, qkv, 1), part(call, qkv, 2)];
    return [
      kernelCall(deltaShader, {
        bind: { out, d_out: dOut, delta },
        sizes: { QUERIES: queries, HEADS: heads, HEAD_QUADS: headQuads, ROWS: rows },
        grid: lineGrid(rows, 64),
        cost: { flops: 2 * (out.bytes / 4), bytes: 2 * out.bytes },
      }),
      products(tile, call, 'weights', q, k, { rows: lse, scores }),
      mixTransposed(tile, call, scores, answers(call, dOut), part(call, dQkv, 2)),
      // From here on the weights are the gradient of the scores, in place.
      products(tile, call, 'gradient', answers(call, dOut), v, { rows: delta, scores }),
      mix(tile, call, scores, k, null, part(call, dQkv, 0)),
      mixTransposed(tile, call, scores, q, part(call, dQkv, 1)),
    ];
  },
}));
