/**
 * @file Winograd's convolution, F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3): 3 x 3 kernels at stride 1 with 16 products for 4
 * outputs, or 36 for 16, where the direct way takes 36 and 144 (Lavin & Gray 2016).
 *
 *   y = A^T [(G g G^T) * (B^T d B)] A
 *
 * Kernels are transformed when parameters are packed. A call is three dispatches without a barrier: the input's transform,
 * a matrix product for each point of it, the way back with bias and residual. The tensors between them are 4 and 2.25
 * times as large as the activations.
 *
 * Errors, relative to float64 (L2; 64, 256 and 512 channels; the direct kernel 2.3e-7, 4.3e-7, 5.8e-7): F(2 x 2) 1.9e-7,
 * 2.8e-7, 3.8e-7; F(4 x 4) 6.0e-7, 8.9e-7, 1.2e-6. The transforms of F(4 x 4) add an error of their own, which narrow layers,
 * whose sums are short, make up for least: so below 64 input channels it counts as reduced. Why 64: docs/performance.md.
 */
import winogradInput2 from '../../shaders/winograd/input_2x2.wgsl';
import winogradInput4 from '../../shaders/winograd/input_4x4.wgsl';
import winogradOutput2 from '../../shaders/winograd/output_2x2.wgsl';
import winogradOutput4 from '../../shaders/winograd/output_4x4.wgsl';
import winogradProducts from '../../shaders/winograd/products.wgsl';
import type { Graph, Target } from '../runtime/graph.ts';
import {
  type Activation,
  activationBytes,
  type Normalised,
  pixels,
  quads,
  stored,
  type Tensor,
} from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import type { Variant } from '../runtime/variants.ts';
import type { WinogradTile } from '../runtime/weights.ts';
import type { ConvolutionCall } from './convolution_call.ts';
import {
  DISPATCH_COST,
  loadCost,
  type RegisterTile,
  registerFits,
  registerTileCost,
  registerTileNote,
} from './register_tiles.ts';
import {
  lowerStaged,
  type StagedSizes,
  WORKGROUP_TILES,
  type WorkgroupTile,
  workgroupCost,
  workgroupFits,
} from './workgroup_tiles.ts';

interface Winograd {
  readonly tile: WinogradTile;
  readonly input: typeof winogradInput2;
  readonly output: typeof winogradOutput2;
  /** Additions of vec4f in the transforms of a tile, there and back. */
  readonly additions: { readonly input: number; readonly output: number };
  /** Input channels from which it counts as float32. */
  readonly leastChannels: number;
}

const WAYS: readonly Winograd[] = [
  { tile: 2, input: winogradInput2, output: winogradOutput2, additions: { input: 32, output: 24 }, leastChannels: 1 },
  {
    tile: 4,
    input: winogradInput4,
    output: winogradOutput4,
    additions: { input: 330, output: 198 },
    leastChannels: 64,
  },
];

/** Tiles of a point, and quads of output channels, in the registers of an invocation of the products. */
const REGISTERS: readonly RegisterTile[] = [
  { run: 8, quads: 1 },
  { run: 4, quads: 2 },
  { run: 8, quads: 2 },
  { run: 8, quads: 4 },
];

/** WebGPU's default limit of a storage binding: no tensor between the steps may be larger. */
const MAX_BINDING = 2 ** 27;

/** Transformed kernels are 1.8 or 4 times as large as the 3 x 3 ones. Large layers stay as they are, or take small tiles. */
const MAX_KERNELS = 40e6;

/**
 * What the cost is multiplied by. On GPUs others found F(2 x 2) at 0.8 of the speed of a direct kernel, with 2.25 times fewer
 * products (denoiser), or at 0.5 to 1.4 (leela-zero), since the tensors between the steps go through memory. So there only
 * a measurement takes it.
 */
const DOUBT = { cpu: 1, gpu: 6 } as const;

/** What the sizes of a call make of a tile. */
function tilesOf({ tile }: Winograd, { x, y }: Pick<ConvolutionCall, 'x' | 'y'>) {
  const { n, h, w } = x.shape;
  const [down, across] = [Math.ceil(h / tile), Math.ceil(w / tile)];
  const [inQuads, outQuads] = [quads(x.shape.c), quads(y.shape.c)];
  return { points: (tile + 2) ** 2, tiles: n * down * across, down, across, inQuads, outQuads };
}

/** Not where kernels or the tensors between the steps become too large, nor where kernels stay in a small format. */
function fits({ bindingBytes = MAX_BINDING }: Target, way: Winograd, call: ConvolutionCall): boolean {
  if (call.kernel !== 3 || call.stride !== 1) return false;
  const { points, tiles, inQuads, outQuads } = tilesOf(way, call);
  if (64 * points * inQuads * outQuads > MAX_KERNELS) return false;
  return 16 * points * tiles * Math.max(inQuads, outQuads) <= bindingBytes && storedAsFloat32(call);
}

const storedAsFloat32 = ({ weights }: ConvolutionCall): boolean => {
  const { packing } = weights();
  return packing.layout === 'matrix' && packing.format === 'f32';
};

/** A way to make the products. */
interface Products {
  /** Of the tile, as names have it. */
  readonly name: string;
  readonly note: string;
  fits(target: Target, call: ConvolutionCall, way: Winograd): boolean;
  cost(target: Target, call: ConvolutionCall, way: Winograd): number;
  lower(graph: Graph, call: ConvolutionCall, way: Winograd, v: Tensor, m: Tensor): readonly KernelCall[];
}

const inRegisters = (registers: RegisterTile): Products => ({
  name: `${registers.run}x${registers.quads}`,
  note: registerTileNote(registers),

  fits: (target, call, way) => {
    const { tiles, outQuads } = tilesOf(way, call);
    return registerFits(target, registers, tiles, outQuads);
  },

  cost: (target, call, way) => {
    const { points, tiles, inQuads, outQuads } = tilesOf(way, call);
    return registerTileCost(target, registers, {
      rows: points,
      columns: tiles,
      outQuads,
      bodies: inQuads,
      loads: registers.run + 4 * registers.quads,
      multiplyAdds: 4 * registers.run * registers.quads,
    });
  },

  lower: (_graph, call, way, v, m) => {
    const { points, tiles, inQuads, outQuads } = tilesOf(way, call);
    const transformed = call.weights({ winograd: way.tile });
    const blocks = Math.ceil(tiles / registers.run) * Math.ceil(outQuads / registers.quads);
    return [
      kernelCall(winogradProducts, {
        bind: { v, weights: transformed, m },
        sizes: { TILES: tiles, IN_QUADS: inQuads, OUT_QUADS: outQuads },
        tiles: { RUN: registers.run, QUADS: registers.quads },
        grid: [Math.ceil(blocks / 64), points, 1],
        cost: {
          flops: 2 * points * tiles * call.x.shape.c * call.y.shape.c,
          bytes: v.bytes + m.bytes + transformed.bytes,
          multiplyAdds: directMultiplyAdds(call),
        },
      }),
    ];
  },
});

const inWorkgroups = (tile: WorkgroupTile): Products => ({
  name: `workgroup ${tile.name}`,
  note: 'tiles in workgroup memory: for GPUs',
  fits: (target, call, way) => workgroupFits(target, tile, sizesOf(call, way)),
  cost: (target, call, way) => workgroupCost(target, tile, sizesOf(call, way)),
  lower: (graph, call, way, v, m) => {
    const weights = () => call.weights({ winograd: way.tile });
    const alone = { stride: 1, bias: null, residual: null } as const;
    return lowerStaged(graph, tile, { ...sizesOf(call, way), ...alone, x: { tensor: v, shift: 0 }, y: m, weights });
  },
});

/** The products as one of matrices, as the shader for workgroups sees them: a row of tiles for each point. */
function sizesOf(call: ConvolutionCall, way: Winograd): StagedSizes {
  const { points, tiles } = tilesOf(way, call);
  const row = (c: number) => ({ n: 1, h: 1, w: tiles, c });
  return {
    kernel: 1,
    from: row(call.x.shape.c),
    to: row(call.y.shape.c),
    points,
    multiplyAdds: directMultiplyAdds(call),
  };
}

/**
 * The GroupNorm that the input's transform makes as it loads, so that its result is never stored. Each value is loaded 2.25 or 4
 * times, which a GPU's SiLU units bear and a CPU adapter's exponentials do not.
 */
const normInLoad = ({ target }: Graph, { origin }: Activation): Normalised | null =>
  target.adapter === 'gpu' && origin?.kind === 'normalised' && origin.separate() ? origin : null;

const directMultiplyAdds = ({ x, y }: ConvolutionCall): number => 9 * pixels(y.shape) * x.shape.c * y.shape.c;

const PRODUCTS: readonly Products[] = [...REGISTERS.map(inRegisters), ...WORKGROUP_TILES.map(inWorkgroups)];

export const winograd: readonly Variant<ConvolutionCall>[] = WAYS.flatMap((way) =>
  PRODUCTS.map((products) => variant(way, products)),
);

function variant(way: Winograd, products: Products): Variant<ConvolutionCall> {
  const { tile, leastChannels } = way;
  return {
    name: `winograd ${tile}x${tile} ${products.name}`,
    accuracy: ({ x }) => (x.shape.c < leastChannels ? 'reduced' : 'float32'),
    note: `fewer products, ${products.note}`,

    fits: (target, call) => fits(target, way, call) && products.fits(target, call, way),

    cost: (target, call) => {
      const { points, tiles, inQuads, outQuads } = tilesOf(way, call);
      const moved = points * (inQuads + outQuads) + (tile + 2) ** 2 * inQuads + tile ** 2 * outQuads;
      const transforms =
        tiles * (loadCost(target) * moved + way.additions.input * inQuads + way.additions.output * outQuads);
      const doubt = DOUBT[target.adapter] * (transforms + products.cost(target, call, way));
      return 2 * DISPATCH_COST[target.adapter] + doubt;
    },

    lower(graph, call) {
      const { x, bias, residual, y } = call;
      const { points, tiles, down, across, inQuads, outQuads } = tilesOf(way, call);
      const v = graph.array('transformed input', 4 * points * tiles * inQuads);
      const m = graph.array('transformed output', 4 * points * tiles * outQuads);
      const place = { HEIGHT: x.shape.h, WIDTH: x.shape.w, TILES: tiles, TILES_Y: down, TILES_X: across };
      const input = stored(x);
      const added = residual && stored(residual);
      const norm = normInLoad(graph, input.tensor);
      return [
        kernelCall(way.input, {
          bind: { x: norm?.of ?? input.tensor, coefficients: norm?.coefficients ?? null, v },
          sizes: { ...place, QUADS: inQuads, X_SHIFT: input.shift },
          switches: norm ? { NORM: true, SILU: norm.silu } : {},
          grid: lineGrid(tiles * inQuads, 64),
          cost: { flops: 4 * tiles * inQuads * way.additions.input, bytes: input.tensor.bytes + v.bytes },
        }),
        ...products.lower(graph, call, way, v, m),
        kernelCall(way.output, {
          bind: { m, bias, residual: added?.tensor ?? null, y },
          sizes: {
            ...place,
            QUADS: outQuads,
            BIAS: Number(bias !== null),
            RESIDUAL: Number(added !== null),
            RESIDUAL_SHIFT: added?.shift ?? 0,
          },
          grid: lineGrid(tiles * outQuads, 64),
          cost: { flops: 4 * tiles * outQuads * way.additions.output, bytes: m.bytes + activationBytes(y.shape) },
        }),
      ];
    },
  };
}
