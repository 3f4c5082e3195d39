/**
 * @file Attention by matrices that subgroups hold: float16 factors, float32 sums. For GPUs with units for it, where the browser
 * offers them (runtime/subgroup_matrix.ts).
 *
 * q, k and v are first copied to float16, each head in planes of its own, so that every kernel loads its matrices straight from
 * storage. About a thousand times less exact than float32, so taken only where a runtime is given the accuracy "reduced".
 */
import deltaShader from '../../shaders/attention/delta.wgsl';
import backwardKeyValue from '../../shaders/subgroup_matrix/attention_backward_key_value.wgsl';
import backwardQuery from '../../shaders/subgroup_matrix/attention_backward_query.wgsl';
import forwardShader from '../../shaders/subgroup_matrix/attention_forward.wgsl';
import halvesShader from '../../shaders/subgroup_matrix/attention_halves.wgsl';
import { type Graph, requiredSubgroupMatrix } from '../runtime/graph.ts';
import type { Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import type { SubgroupMatrix } from '../runtime/subgroup_matrix.ts';
import { type AttentionCall, type AttentionWay, productFlops } from './attention_call.ts';
import { MATRIX_NOTE } from './subgroup_matrix_variants.ts';

/** Matrices along the rows of a workgroup, and along what it goes through: keys, or for the gradient of k and v queries. */
const FORWARD = { rows: 2, span: 4 } as const;
const BACKWARD_QUERY = { rows: 2, span: 2 } as const;
const BACKWARD_KEY_VALUE = { rows: 1, span: 2 } as const;

/** Wider heads take more registers than a subgroup has. */
const MOST_CHANNELS = 64;

/** Fewer tokens leave most of a span without work. */
const LEAST_TOKENS = 32;

/** A gradient is often too small for float16, and never near its largest number: what it is multiplied by meanwhile. */
const RAISE = 64;

/** In those of attention without workgroup memory, which costs 1: below what tiles in workgroup memory are estimated at. */
const COST = 0.01;

/** Numbers of a call's planes: tokens and channels filled up so that no kernel has to look where they end. */
function planesOf({ m, n, k }: SubgroupMatrix, { tokens, headQuads }: AttentionCall) {
  const step = Math.max(FORWARD.rows * m, FORWARD.span * n);
  return { rows: Math.ceil(tokens / step) * step, depth: Math.ceil((4 * headQuads) / k) };
}

/** Copies heads to float16, `parts` of them side by side. */
function halves(graph: Graph, call: AttentionCall, x: Tensor, parts: 1 | 3, scale: number) {
  const { images, tokens, heads, headQuads } = call;
  const matrix = requiredSubgroupMatrix(graph.target);
  const { rows, depth } = planesOf(matrix, call);
  const depthQuads = (depth * matrix.k) / 4;
  const count = images * heads * parts * rows * depthQuads;
  const planes = graph.array('heads in float16', 2 * count);
  const copy = kernelCall(halvesShader, {
    bind: { x, planes },
    sizes: {
      TOKENS: tokens,
      HEADS: heads,
      PARTS: parts,
      HEAD_QUADS: headQuads,
      DEPTH_QUADS: depthQuads,
      ROWS: rows,
      COUNT: count,
      SCALE: scale,
    },
    grid: lineGrid(count, 64),
    cost: { flops: 0, bytes: x.bytes + planes.bytes },
  });
  return { planes, copy };
}

function layout(graph: Graph, call: AttentionCall, { rows }: { readonly rows: number }) {
  const { images, tokens, heads, headQuads } = call;
  const matrix = requiredSubgroupMatrix(graph.target);
  const { m, n, k, subgroup } = matrix;
  const planes = planesOf(matrix, call);
  return {
    sizes: { TOKENS: tokens, HEADS: heads, HEAD_QUADS: headQuads, PLANE_ROWS: planes.rows },
    tiles: { M: m, N: n, K: k, LANES: subgroup, ROWS: rows, DEPTH: planes.depth },
    grid: [Math.ceil(tokens / (rows * m)), images * heads, 1] as const,
  };
}

export const matrix: AttentionWay = {
  name: 'matrix',
  accuracy: 'reduced',
  note: MATRIX_NOTE,

  fits: ({ subgroupMatrix }, { queries, tokens, headQuads }) =>
    subgroupMatrix !== undefined && queries === tokens && tokens >= LEAST_TOKENS && 4 * headQuads <= MOST_CHANNELS,

  cost: () => COST,

  forward(graph, call): readonly KernelCall[] {
    const { qkv, out, lse, scale } = call;
    const { planes, copy } = halves(graph, call, qkv, 3, scale);
    const { sizes, tiles, grid } = layout(graph, call, FORWARD);
    return [
      copy,
      kernelCall(forwardShader, {
        bind: { planes, out, lse },
        sizes,
        tiles: { ...tiles, KEYS: FORWARD.span },
        grid,
        cost: { flops: 3 * productFlops(call), bytes: planes.bytes + out.bytes, multiplyAdds: productFlops(call) },
      }),
    ];
  },

  backward(graph, call): readonly KernelCall[] {
    const { qkv, out, lse, dOut, dQkv, images, tokens, heads, headQuads, scale } = call;
    const delta = graph.array('attention delta', images * heads * tokens);
    const { planes, copy } = halves(graph, call, qkv, 3, scale);
    const { planes: dPlanes, copy: dCopy } = halves(graph, call, dOut, 1, RAISE);
    const query = layout(graph, call, BACKWARD_QUERY);
    const keyValue = layout(graph, call, BACKWARD_KEY_VALUE);
    const bytes = planes.bytes + dPlanes.bytes + qkv.bytes;
    const rows = images * heads * tokens;
    const bind = { planes, d_planes: dPlanes, lse, delta, d_qkv: dQkv };
    return [
      copy,
      dCopy,
      kernelCall(deltaShader, {
        bind: { out, d_out: dOut, delta },
        sizes: { QUERIES: tokens, HEADS: heads, HEAD_QUADS: headQuads, ROWS: rows },
        grid: lineGrid(rows, 64),
        cost: { flops: out.bytes / 2, bytes: 2 * out.bytes },
      }),
      kernelCall(backwardQuery, {
        bind,
        sizes: { ...query.sizes, SCALE: scale, RAISE },
        tiles: { ...query.tiles, KEYS: BACKWARD_QUERY.span },
        grid: query.grid,
        cost: { flops: 3 * productFlops(call), bytes },
      }),
      kernelCall(backwardKeyValue, {
        bind,
        sizes: { ...keyValue.sizes, RAISE },
        tiles: { ...keyValue.tiles, QUERIES: BACKWARD_KEY_VALUE.span },
        grid: keyValue.grid,
        cost: { flops: 4 * productFlops(call), bytes },
      }),
    ];
  },
};
