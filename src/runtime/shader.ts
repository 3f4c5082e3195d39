/**
 * @file What the host knows of a shader, and how one use of it, a kernel call, is written down.
 *
 * A descriptor is made at build time from the `.wgsl` file (tools/shaders). Its type lists the file's bindings, sizes,
 * switches and tiles, so that a misspelt binding or a forgotten size is an error of the type checker, not of a device.
 */
import type { Resource } from './resources.ts';

type Scalar = 'u32' | 'i32' | 'f32';

/** The type-level summary that tools/shaders writes for each file. */
export interface ShaderInterface {
  /** Storage bindings, by the WGSL variable's name. */
  readonly bindings: Readonly<Record<string, 'read' | 'read_write'>>;
  /** Uniform blocks, each with a union of its field names. Their values may change from run to run. */
  readonly uniforms: Readonly<Record<string, string>>;
  /** Names of `override`s without a default. */
  readonly sizes: string;
  /** `override`s with a default. */
  readonly switches: Readonly<Record<string, boolean | number>>;
  /** Names of `const`s marked as tile sizes. */
  readonly tiles: string;
}

export interface UniformBlock {
  readonly size: number;
  readonly fields: Readonly<Record<string, { readonly type: Scalar; readonly offset: number }>>;
}

export interface Shader<I extends ShaderInterface = ShaderInterface> {
  /** Path below `shaders/`, for example `conv2d/forward`; after a space, how the file's text was changed, if it was. */
  readonly name: string;
  readonly source: string;
  readonly bindings: readonly {
    readonly name: string;
    readonly index: number;
    readonly access: 'read' | 'read_write' | 'uniform';
  }[];
  readonly uniforms: Readonly<Record<string, UniformBlock>>;
  readonly sizes: Readonly<Record<string, Scalar>>;
  readonly switches: Readonly<Record<string, { readonly type: Scalar | 'bool'; readonly value: boolean | number }>>;
  readonly tiles: Readonly<Record<string, number>>;
  /** Never present at run time; carries the interface for the type checker. */
  readonly interface?: I;
}

/** The number of workgroups in x, y and z. */
export type Grid = readonly [number, number, number];

/** One dispatch, before buffers and pipelines exist. */
export interface KernelCall {
  readonly shader: Shader;
  readonly bind: Readonly<Record<string, Resource>>;
  readonly sizes: Readonly<Record<string, number>>;
  readonly switches: Readonly<Record<string, boolean | number>>;
  readonly tiles: Readonly<Record<string, number>>;
  readonly grid: Grid;
  /** Sizes become pipeline constants (a pipeline a shape) instead of uniform values (one pipeline for all shapes). */
  readonly constantSizes: boolean;
  /** Sums over a workgroup are made by subgroup operations (workgroup_sums.ts). */
  readonly subgroups: boolean;
  /** Floating-point operations (2 for a multiply-add) and bytes of storage traffic that the call should need. */
  readonly cost: Cost;
}

export interface Cost {
  readonly flops: number;
  readonly bytes: number;
  /** Of the layer, by its definition, where a kernel takes another number than half of `flops`: for counting models. */
  readonly multiplyAdds?: number;
}

type Arguments<I extends ShaderInterface> = {
  /** A resource for every storage binding and uniform block. A binding behind a switch that is off may be `null`. */
  readonly bind: { readonly [K in keyof I['bindings'] | keyof I['uniforms']]: Resource | null };
  readonly grid: Grid;
  readonly cost: Cost;
  readonly constantSizes?: boolean;
  readonly subgroups?: boolean;
  readonly switches?: { readonly [K in keyof I['switches']]?: I['switches'][K] };
  readonly tiles?: { readonly [K in I['tiles']]?: number };
} & ([I['sizes']] extends [never]
  ? { readonly sizes?: never }
  : { readonly sizes: { readonly [K in I['sizes']]: number } });

/**
 * Writes down one dispatch of `shader`.
 *
 * @throws RangeError if a size is not a finite number, which would otherwise reach the device as 0.
 */
export function kernelCall<I extends ShaderInterface>(shader: Shader<I>, args: Arguments<I>): KernelCall {
  const sizes = (args.sizes ?? {}) as Record<string, number>;
  for (const [name, value] of Object.entries(sizes)) {
    if (!Number.isFinite(value) || (shader.sizes[name] === 'u32' && (value < 0 || !Number.isInteger(value)))) {
      throw new RangeError(`${shader.name}: size ${name} must be a finite ${shader.sizes[name]}, found ${value}`);
    }
  }
  const bind: Record<string, Resource> = {};
  for (const [name, resource] of Object.entries(args.bind as Record<string, Resource | null>)) {
    if (resource !== null) bind[name] = resource;
  }
  return {
    shader: shader as unknown as Shader,
    bind,
    sizes,
    switches: (args.switches ?? {}) as Record<string, boolean | number>,
    tiles: (args.tiles ?? {}) as Record<string, number>,
    grid: args.grid,
    constantSizes: args.constantSizes ?? false,
    subgroups: args.subgroups ?? false,
    cost: args.cost,
  };
}

/** WebGPU's default limit of workgroups in one dimension. */
const MAX_WORKGROUPS = 65535;

/**
 * A grid for `invocations` in a row, workgroups of `threads`. Rows longer than a dimension allows fold into y, and the
 * shader puts them together again: index = id.x + id.y * num_workgroups.x * threads.
 */
export function lineGrid(invocations: number, threads: number): Grid {
  const groups = Math.max(1, Math.ceil(invocations / threads));
  const rows = Math.ceil(groups / MAX_WORKGROUPS);
  return [Math.ceil(groups / rows), rows, 1];
}
