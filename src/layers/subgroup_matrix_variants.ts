/**
 * @file The variants by matrices that subgroups hold, for convolution at stride 1 and for linear layers: float16 factors,
 * float32 sums. For GPUs with units for it, where the browser offers them (runtime/subgroup_matrix.ts).
 *
 * About a thousand times less exact than float32 (shaders/subgroup_matrix/convolution.wgsl), so taken only where a runtime is
 * given the accuracy "reduced".
 */
import convolution from '../../shaders/subgroup_matrix/convolution.wgsl';
import { type Graph, requiredSubgroupMatrix, type Target, workgroupBytes } from '../runtime/graph.ts';
import { activationBytes, pixels, quads, type Tensor } from '../runtime/resources.ts';
import { type KernelCall, kernelCall } from '../runtime/shader.ts';
import type { SubgroupMatrix } from '../runtime/subgroup_matrix.ts';
import type { Variant } from '../runtime/variants.ts';
import { type Fragments, matricesOf } from '../runtime/weights.ts';
import { convolutionCost } from './convolution_call.ts';
import { sumPartsCost } from './sum_parts.ts';
import { inParts, LEAST_ROWS, PARTS, STAGED_LANES, type StagedCall, type StagedSizes } from './workgroup_tiles.ts';

export const MATRIX_NOTE = 'matrices held by subgroups, float16 with float32 sums: for GPUs with units for it';

interface MatrixTile {
  /** Matrices of a subgroup, along pixels and channels. */
  readonly rows: number;
  readonly columns: number;
  /** Subgroups of a workgroup, along pixels and channels. */
  readonly across: number;
  readonly down: number;
}

/** The fastest on an H200 (docs/performance.md): few subgroups a workgroup, so that many workgroups hide their barriers. */
const TILES: readonly MatrixTile[] = [
  { rows: 4, columns: 3, across: 1, down: 2 },
  { rows: 4, columns: 4, across: 1, down: 2 },
  { rows: 4, columns: 2, across: 1, down: 4 },
  { rows: 4, columns: 3, across: 2, down: 2 },
  { rows: 4, columns: 2, across: 2, down: 3 },
  { rows: 2, columns: 2, across: 2, down: 2 },
];

/** The tile that is split: the smallest. */
const SPLIT = TILES[TILES.length - 1]!;

const nameOf = ({ rows, columns, across, down }: MatrixTile): string => `${rows}x${columns}x${across}x${down}`;

/** A multiply-add by matrices, in one of vec4f: on an H200 a seventh of what tiles in workgroup memory take. */
const MATRIX_COST = 0.24;

/** Products along the input channels of a step: nine taps are work enough for one. */
const chunkOf = ({ kernel }: StagedSizes): number => (kernel === 3 ? 1 : 2);

/** What the sizes of a call make of a tile. */
function layout({ m, n, k, subgroup }: SubgroupMatrix, tile: MatrixTile, call: StagedSizes) {
  const { kernel, from, to } = call;
  const lanes = subgroup * tile.across * tile.down;
  // A linear layer's pixels lie side by side, in rows of a matrix each.
  const image = kernel === 1 ? { n: 1, h: Math.ceil(pixels(to) / m), w: m } : to;
  const wide = kernel === 1 ? m : widthOf(m, image.w);
  const copies = wide < m ? kernel : 1;
  const lines = (m / wide) * tile.rows * tile.across;
  const chunk = chunkOf(call);
  const fragments: Fragments = { n, k, chunk };
  const { inMatrices } = matricesOf(fragments, to.c, from.c);
  const depth = (chunk * k) / 4;
  const pad = (kernel - 1) / 2;
  const staged = copies * (lines + 2 * pad) * (wide + (kernel - copies) * pad);
  const loads = Math.ceil((staged * depth) / lanes);
  return {
    image,
    wide,
    copies,
    chunk,
    fragments,
    lanes,
    chunks: inMatrices / chunk,
    /** Tiles along the pixels and along the channels. */
    across: image.n * Math.ceil(image.h / lines) * Math.ceil(image.w / wide),
    down: Math.ceil(to.c / (n * tile.columns * tile.down)),
    /** Multiply-adds of a workgroup for each input channel of a tap. */
    work: m * tile.rows * tile.across * n * tile.columns * tile.down,
    bytes: 4 * Math.ceil((loads * lanes) / depth) * (4 * depth + 8) + 8 * tile.across * tile.down * m * n,
  };
}

/** Columns of the image a matrix covers: as many as leave least beyond the edge. */
function widthOf(m: number, width: number): number {
  const waste = (wide: number) => Math.ceil(width / wide) * wide;
  return [m, m / 2, m / 4].reduce((a, b) => (waste(b) < waste(a) ? b : a));
}

function fits({ subgroupMatrix, ...target }: Target, tile: MatrixTile, call: StagedSizes & { stride: 1 | 2 }): boolean {
  const { to } = call;
  if (!subgroupMatrix || call.stride !== 1 || pixels(to) < LEAST_ROWS) return false;
  const { lanes, bytes } = layout(subgroupMatrix, tile, call);
  const columns = subgroupMatrix.n * tile.columns * tile.down;
  return lanes <= 256 && bytes <= workgroupBytes(target) && 2 * to.c > columns;
}

function cost({ subgroupMatrix }: Target, tile: MatrixTile, call: StagedSizes, parts = 1): number {
  if (!subgroupMatrix) return Number.POSITIVE_INFINITY;
  const { across, down, work, lanes, chunk, chunks, fragments } = layout(subgroupMatrix, tile, call);
  const depth = call.kernel ** 2 * Math.ceil(chunks / parts) * chunk * fragments.k;
  return (MATRIX_COST / 4) * depth * work * Math.max(across * down * parts, STAGED_LANES / lanes);
}

const lower = (graph: Graph, tile: MatrixTile, call: StagedCall, parts = 1): KernelCall[] =>
  inParts(graph, call, parts, (whole, result) => product(graph, tile, whole, result, parts));

function product({ target }: Graph, tile: MatrixTile, call: StagedCall, result: Tensor, parts: number): KernelCall {
  const matrix = requiredSubgroupMatrix(target);
  const { kernel, x, bias, residual, from, to, weights } = call;
  const { image, wide, copies, chunk, fragments, chunks, across, down } = layout(matrix, tile, call);
  const { bytes, flops } = convolutionCost(kernel, from, to, pixels(to));
  return kernelCall(convolution, {
    bind: { x: x.tensor, fragments: weights({ fragments }), bias, residual: residual?.tensor ?? null, y: result },
    sizes: {
      HEIGHT: image.h,
      WIDTH: image.w,
      PIXELS: pixels(to),
      IN_QUADS: quads(from.c),
      OUT_QUADS: quads(to.c),
      CHUNKS: chunks,
      PART: Math.ceil(chunks / parts),
      BIAS: Number(bias !== null),
      RESIDUAL: Number(residual !== null),
      X_SHIFT: x.shift,
      RESIDUAL_SHIFT: residual?.shift ?? 0,
    },
    tiles: {
      M: matrix.m,
      N: matrix.n,
      K: matrix.k,
      LANES: matrix.subgroup,
      ROWS: tile.rows,
      COLUMNS: tile.columns,
      ACROSS: tile.across,
      DOWN: tile.down,
      CHUNK: chunk,
      KERNEL: kernel,
      WIDE: wide,
      COPIES: copies,
    },
    grid: [across, down, parts],
    cost: { flops, bytes: bytes - activationBytes(to) + result.bytes },
  });
}

/** Every part has work. */
const partsFit = (matrix: SubgroupMatrix, call: StagedSizes, parts: number): boolean => {
  const { chunks, across, down, lanes } = layout(matrix, SPLIT, call);
  return Math.ceil(chunks / parts) * (parts - 1) < chunks && across * down * lanes < 8 * STAGED_LANES;
};

/** @param staged the call as the shader sees it */
export function subgroupMatrixVariants<Call>(staged: (call: Call) => StagedCall): readonly Variant<Call>[] {
  const whole = TILES.map(
    (tile): Variant<Call> => ({
      name: `matrix ${nameOf(tile)}`,
      accuracy: () => 'reduced',
      note: MATRIX_NOTE,
      fits: (target, call) => fits(target, tile, staged(call)),
      cost: (target, call) => cost(target, tile, staged(call)),
      lower: (graph, call) => lower(graph, tile, staged(call)),
    }),
  );
  const split = PARTS.map(
    (parts): Variant<Call> => ({
      name: `split-matrix ${nameOf(SPLIT)}x${parts}`,
      accuracy: () => 'reduced',
      note: `${MATRIX_NOTE}, input channels split over workgroups`,
      fits: (target, call) =>
        fits(target, SPLIT, staged(call)) && partsFit(target.subgroupMatrix!, staged(call), parts),
      cost: (target, call) => cost(target, SPLIT, staged(call), parts) + sumPartsCost(target, parts, staged(call).to),
      lower: (graph, call) => lower(graph, SPLIT, staged(call), parts),
    }),
  );
  return [...whole, ...split];
}
