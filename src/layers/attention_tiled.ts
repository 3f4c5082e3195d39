/**
 * @file Attention with tiles of q, k and v staged in workgroup memory: online softmax forward, scores made again from the
 * log-sum-exp in the gradient, which like `online` takes seven products of the scores' size.
 *
 * For GPUs: a value from workgroup memory costs little more than one in a register, and a row is read once for a whole tile.
 * On a CPU adapter both kinds of memory cost the same and a barrier costs microseconds, so the cost keeps it away.
 */
import tiledBackwardKeyValue from '../../shaders/attention/tiled_backward_key_value.wgsl';
import tiledBackwardQuery from '../../shaders/attention/tiled_backward_query.wgsl';
import tiledForward from '../../shaders/attention/tiled_forward.wgsl';
import { type Target, workgroupBytes } from '../runtime/graph.ts';
import { kernelCall } from '../runtime/shader.ts';
import { type AttentionCall, type AttentionWay, productFlops } from './attention_call.ts';
import { GPU_LANES } from './register_tiles.ts';
import { STAGED_LANES } from './workgroup_tiles.ts';

/** What a workgroup makes: rows (queries) times columns (keys) of the scores; of the gradient of k and v keys times queries. */
interface Tile {
  /** Invocations along the columns and the channels of a head, and along the rows. */
  readonly across: number;
  readonly down: number;
  /** Quads of rows, and of columns, of an invocation. */
  readonly run: number;
  readonly columns: number;
}

const TILES: readonly Tile[] = [
  { across: 16, down: 4, run: 1, columns: 1 },
  { across: 4, down: 8, run: 1, columns: 2 },
  { across: 8, down: 8, run: 1, columns: 2 },
  { across: 8, down: 8, run: 2, columns: 1 },
  { across: 8, down: 8, run: 2, columns: 2 },
];

const threadsOf = ({ across, down }: Tile): number => across * down;

/** Rows and columns of a workgroup. */
const extent = ({ across, down, run, columns }: Tile) => ({ rows: 4 * down * run, columns: 4 * across * columns });

/** Quads of channels that a step of the gradient takes: with more, an invocation would stage two things at a time. */
const BACKWARD_DEPTH = 2;

/** The same forward, the most that there is room for: fewer steps have fewer barriers. */
const FORWARD_DEPTHS = [4, 2, 1] as const;

/** More sums of vec4f than this leave a GPU's registers no room: the gradient of k and v holds scores and both gradients. */
const MOST_SUMS = 48;

/** A tile of so many scores or fewer may be for the most part beyond the edge. */
const SMALL_TILE = 1024;

/** Below so many tokens every tile is for the most part beyond the edge. */
const LEAST_TOKENS = 32;

/** Quads of the head of an invocation: one of few numbers, so that heads of other widths share pipelines. */
function headTile({ across }: Tile, headQuads: number): number {
  let own = 1;
  while (own * across < headQuads) own *= 2;
  return own;
}

const sumsOf = (tile: Tile, headQuads: number): number => 4 * tile.run * (tile.columns + 2 * headTile(tile, headQuads));

/** Of a staged step, padded as the shaders have it, in vec4f: columns alone, and rows too in the gradient. */
const forwardHalf = (tile: Tile, depth: number): number => depth * extent(tile).columns + 32;
const backwardHalf = (tile: Tile): number => {
  const { rows, columns } = extent(tile);
  return BACKWARD_DEPTH * (rows + columns) + 64;
};

/** Lines of keys or queries a step: as many as a half has room for, and an invocation has registers to bring four vec4f. */
function linesOf(tile: Tile, headQuads: number, half: number): number {
  const wide = tile.across * headTile(tile, headQuads);
  let lines = 1;
  while (2 * lines * wide <= Math.min(half, 4 * threadsOf(tile)) && 2 * lines <= extent(tile).columns) lines *= 2;
  return lines;
}

/** Vectors of workgroup memory that hold the scores' weights. */
const shares = (tile: Tile): number => extent(tile).columns * (tile.down * tile.run + 8 / tile.down - 1);

/** Bytes of workgroup memory of the forward pass. */
function forwardBytes(tile: Tile, headQuads: number, depth: number): number {
  const rowQuads = tile.down * tile.run;
  const staged = 4 * tile.across * headTile(tile, headQuads) * (rowQuads + 1) + 2 * forwardHalf(tile, depth);
  return 16 * (staged + shares(tile) + tile.across * rowQuads);
}

/** Of the gradient: of q, or of k and v, whichever takes more. */
const backwardBytes = (tile: Tile): number =>
  16 * (2 * backwardHalf(tile) + shares(tile)) + 8 * Math.max(extent(tile).rows, extent(tile).columns);

const forwardDepth = (target: Target, tile: Tile, headQuads: number): number | undefined =>
  FORWARD_DEPTHS.find((depth) => forwardBytes(tile, headQuads, depth) <= workgroupBytes(target));

/** The shaders take four lines at a time, and every invocation brings the same number of vec4f of a step's lines. */
const linesFit = (tile: Tile, headQuads: number, half: number): boolean => {
  const lines = linesOf(tile, headQuads, half);
  return lines % 4 === 0 && (lines * tile.across * headTile(tile, headQuads)) % threadsOf(tile) === 0;
};

/** For a single query most of a tile would be idle. */
function fits(target: Target, tile: Tile, { queries, tokens, headQuads }: AttentionCall): boolean {
  const { rows, columns } = extent(tile);
  const depth = forwardDepth(target, tile, headQuads);
  return (
    queries > 1 &&
    (rows * columns <= SMALL_TILE || (rows < 2 * queries && columns < 2 * tokens)) &&
    sumsOf(tile, headQuads) <= MOST_SUMS &&
    backwardBytes(tile) <= workgroupBytes(target) &&
    depth !== undefined &&
    linesFit(tile, headQuads, forwardHalf(tile, depth)) &&
    linesFit(tile, headQuads, backwardHalf(tile))
  );
}

/**
 * What the way without workgroup memory takes on a GPU for a query, a key and a quad of the head, in multiply-adds of vec4f
 * where a load from storage counts four: its scores and its sums. An invocation of it makes two queries.
 */
const ONLINE = { work: 4 + 3, queries: 2 } as const;

/** The same of a tile, where a load from workgroup memory counts one; of both also what a GPU that is not full loses. */
function gpuCost(tile: Tile, { images, heads, queries, tokens, headQuads }: AttentionCall): number {
  const { rows, columns } = extent(tile);
  const own = headTile(tile, headQuads);
  const work = (a: number, b: number) => 1 + (a + b) / (4 * a * b);
  const scores = work(tile.run, tile.columns);
  const sums = (work(tile.run, own) * own * tile.across) / headQuads;
  const down = Math.ceil(queries / rows);
  const padded = (down * rows * Math.ceil(tokens / columns) * columns) / (queries * tokens);
  const idle = (invocations: number, busy: number) => Math.max(1, busy / (images * heads * invocations));
  return (
    (padded * (scores + sums) * idle(down * threadsOf(tile), STAGED_LANES)) /
    (ONLINE.work * idle(queries / ONLINE.queries, GPU_LANES))
  );
}

/** Dearer than any other way. */
const NEVER = 3;

export const tiled: readonly AttentionWay[] = TILES.map((tile) => {
  const { rows, columns } = extent(tile);
  const tilesOf = ({ headQuads }: AttentionCall, depth: number, half: number) => ({
    ACROSS: tile.across,
    DOWN: tile.down,
    RUN: tile.run,
    QUADS: headTile(tile, headQuads),
    DEPTH: depth,
    LINES: linesOf(tile, headQuads, half),
  });
  const sizesOf = ({ tokens, queries, heads, headQuads, scale }: AttentionCall) => ({
    TOKENS: tokens,
    QUERIES: queries,
    HEADS: heads,
    HEAD_QUADS: headQuads,
    SCALE: scale,
  });
  return {
    name: `tiled ${rows}x${columns}`,
    note: 'tiles in workgroup memory: for GPUs',
    fits: (target, call) => fits(target, tile, call),
    cost: ({ adapter }, call) =>
      adapter === 'cpu' || call.tokens < LEAST_TOKENS ? NEVER : Math.min(NEVER, gpuCost(tile, call)),

    forward({ target }, call) {
      const { qkv, out, lse, queries, images, heads, headQuads } = call;
      const depth = forwardDepth(target, tile, headQuads)!;
      return [
        kernelCall(tiledForward, {
          bind: { qkv, out, lse },
          sizes: sizesOf(call),
          tiles: { ...tilesOf(call, depth, forwardHalf(tile, depth)), KEYS: tile.columns },
          grid: [Math.ceil(queries / rows), images * heads, 1],
          cost: { flops: 2 * productFlops(call), bytes: qkv.bytes + out.bytes },
        }),
      ];
    },

    backward(graph, call) {
      const { qkv, out, lse, dOut, dQkv, tokens, queries, images, heads } = call;
      const delta = graph.array('attention delta', images * heads * queries);
      const grid = [Math.ceil(tokens / rows), images * heads, 1] as const;
      const bytes = 2 * (qkv.bytes + out.bytes);
      const tiles = tilesOf(call, BACKWARD_DEPTH, backwardHalf(tile));
      return [
        kernelCall(tiledBackwardQuery, {
          bind: { qkv, out, lse, d_out: dOut, d_qkv: dQkv, delta },
          sizes: sizesOf(call),
          tiles: { ...tiles, KEYS: tile.columns },
          grid,
          cost: { flops: 3 * productFlops(call), bytes },
        }),
        kernelCall(tiledBackwardKeyValue, {
          bind: { qkv, lse, d_out: dOut, delta, d_qkv: dQkv },
          sizes: sizesOf(call),
          tiles: { ...tiles, QUERY_QUADS: tile.columns },
          grid,
          cost: { flops: 4 * productFlops(call), bytes },
        }),
      ];
    },
  };
});
