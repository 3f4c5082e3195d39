/**
 * @file Tiles of results in the registers of one invocation: which are worth trying, what they should cost, their grid.
 *
 * Shared by convolution and matrix products. A tile is `run` results of a row (pixels, tokens) times `quads` quads of output
 * channels.
 */
import type { Target } from '../runtime/graph.ts';
import type { Grid } from '../runtime/shader.ts';

export interface RegisterTile {
  readonly run: number;
  readonly quads: number;
}

export const THREADS = { THREADS_X: 16, THREADS_Y: 4 };

/** What a load of a vec4f costs, in multiply-adds of one: measured on SwiftShader, estimated for GPUs' caches. */
const LOAD_COST = { cpu: 8, gpu: 4 } as const;

export const loadCost = ({ adapter }: Target): number => LOAD_COST[adapter];

/** Invocations that keep a GPU of middling size busy; a larger one is measured. */
export const GPU_LANES = 2 ** 14;

/** What one more dispatch costs: about 5 µs on a GPU, 20 µs on SwiftShader. */
export const DISPATCH_COST = { cpu: 2e4, gpu: 100 * GPU_LANES } as const;

/** More accumulators of vec4f than this leave a GPU's registers no room for a second wave. */
const GPU_ACCUMULATORS = 16;

/** Mesa’s LLVM takes seconds for more accumulators of several quads than this. */
export const SLOW_COMPILER_ACCUMULATORS = 8;

/**
 * Not a tile that is for the most part beyond the edge, nor one that the target cannot hold or compile.
 *
 * @param cpuQuads the most quads on a CPU adapter
 */
export function registerFits(
  target: Target,
  { run, quads }: RegisterTile,
  columns: number,
  outQuads: number,
  cpuQuads = Number.POSITIVE_INFINITY,
): boolean {
  if ((run > 4 && run >= 2 * columns) || (quads > 1 && quads >= 2 * outQuads)) return false;
  const accumulators = run * quads;
  if (target.adapter === 'gpu') return accumulators <= 2 * GPU_ACCUMULATORS;
  if (quads > cpuQuads) return false;
  return !target.slowCompiler || quads === 1 || accumulators <= SLOW_COMPILER_ACCUMULATORS;
}

/** @returns `note` of a variant */
export const registerTileNote = ({ run, quads }: RegisterTile): string =>
  run * quads >= 16 ? 'few loads: for CPU adapters' : 'many invocations: for GPUs and small maps';

export interface TiledWork {
  readonly rows: number;
  readonly columns: number;
  readonly outQuads: number;
  /** How often the innermost body runs for a tile, and what it loads and multiplies. */
  readonly bodies: number;
  readonly loads: number;
  readonly multiplyAdds: number;
}

/** Neighbours along the rows that SwiftShader computes at once, whether they all have work or not. */
const CPU_LANES = 4;

/** All tiles together, those at the edges counted as whole ones, and what an adapter that is not full loses. */
export function registerTileCost(target: Target, tile: RegisterTile, work: TiledWork): number {
  const across = work.rows * Math.ceil(work.columns / tile.run);
  const lanes = target.adapter === 'cpu' ? CPU_LANES * Math.ceil(across / CPU_LANES) : across;
  const tiles = lanes * Math.ceil(work.outQuads / tile.quads);
  const one = work.bodies * (LOAD_COST[target.adapter] * work.loads + work.multiplyAdds);
  if (target.adapter === 'cpu') return tiles * one;
  const crowded = tile.run * tile.quads > GPU_ACCUMULATORS ? 2 : 1;
  return crowded * one * Math.max(tiles, GPU_LANES);
}

export const tileGrid = (tile: RegisterTile, rows: number, columns: number, outQuads: number): Grid => [
  Math.ceil((rows * Math.ceil(columns / tile.run)) / THREADS.THREADS_X),
  Math.ceil(Math.ceil(outQuads / tile.quads) / THREADS.THREADS_Y),
  1,
];
