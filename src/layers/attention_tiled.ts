/**
 * @file Attention with tiles of q, k and v staged in workgroup memory, and scores in registers: for GPUs.
 */
import tiledForward from '../../shaders/attention/tiled_forward.wgsl';
import { workgroupBytes } from '../runtime/graph.ts';
import { quads } from '../runtime/resources.ts';
import { kernelCall } from '../runtime/shader.ts';
import { type AttentionCall, type AttentionWay, productFlops } from './attention_call.ts';
import { online } from './attention_online.ts';

interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly across: number;
  readonly down: number;
  readonly depth: number;
}
const TILES: readonly Tile[] = [
  { rows: 64, columns: 64, across: 8, down: 8, depth: 4 },
  { rows: 64, columns: 32, across: 8, down: 8, depth: 4 },
  { rows: 32, columns: 64, across: 8, down: 8, depth: 4 },
  { rows: 32, columns: 32, across: 4, down: 8, depth: 2 },
  { rows: 16, columns: 64, across: 16, down: 4, depth: 2 },
];

const threads = (t: Tile) => t.across * t.down;
function tileQuads(t: Tile, headQuads: number): number {
  for (const quad of [1, 2, 4, 8]) if (headQuads <= t.across * quad) return quad;
  return 0;
}
function lines(t: Tile, wide: number, half: number): number {
  let n = 1;
  while (2 * n <= t.columns && 2 * n * wide <= half && 2 * n * wide <= 4 * threads(t)) n *= 2;
  return n;
}
const forwardHalf = (t: Tile) => 4 * t.depth * (t.columns / 4 + 8 / t.depth);
const forwardBytes = (t: Tile, wide: number) =>
  16 *
  (4 * wide * (t.rows / 4 + 1) +
    2 * forwardHalf(t) +
    t.columns * (t.rows / 4 + 8 / t.down - 1) +
    (t.across * t.rows) / 4);

export const tiled: readonly AttentionWay[] = TILES.map((tile) => ({
  name: `tiled ${tile.rows}x${tile.columns}`,
  note: 'tiles in workgroup memory: for GPUs',
  fits: (target, { headQuads }) =>
    tileQuads(tile, headQuads) > 0 &&
    forwardBytes(tile, tile.across * tileQuads(tile, headQuads)) <= workgroupBytes(target),
  cost: () => 3,
  forward(_graph, call: AttentionCall) {
    const { qkv, out, lse, queries, images, heads, headQuads, tokens, scale } = call;
    const own = tileQuads(tile, headQuads);
    const wide = tile.across * own;
    return [
      kernelCall(tiledForward, {
        bind: { qkv, out, lse },
        sizes: { TOKENS: tokens, QUERIES: queries, HEADS: heads, HEAD_QUADS: headQuads, SCALE: scale },
        tiles: {
          ACROSS: tile.across,
          DOWN: tile.down,
          RUN: tile.rows / 4 / tile.down,
          KEYS: tile.columns / 4 / tile.across,
          QUADS: own,
          DEPTH: tile.depth,
          LINES: lines(tile, wide, forwardHalf(tile)),
        },
        grid: [Math.ceil(queries / tile.rows), images * heads, 1],
        cost: { flops: 2 * productFlops(call), bytes: qkv.bytes + out.bytes },
      }),
    ];
  },
  backward: online.backward,
}));
void quads;
