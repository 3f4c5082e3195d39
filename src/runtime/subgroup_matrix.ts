/**
 * @file Matrices held by a subgroup together: which of them a device multiplies, and the two ways to write it down.
 *
 * The feature is an experiment of Chromium and Dawn (gpuweb proposals/subgroup-matrix.md), offered only where unsafe APIs are
 * allowed. Its functions have changed once, and both forms are in use. Shaders of this project have the newer one,
 *
 *     subgroupMatrixLoad<T, row_major>(&array, offset, stride)      subgroupMatrixStore<row_major>(&array, offset, matrix, stride)
 *
 * and where a device does not know it, `olderSyntax` makes the older one of it: the order is an argument, true for columns.
 */

export const SUBGROUP_MATRIX_FEATURE = 'chromium-experimental-subgroup-matrix';

/** Products of an m x k and a k x n matrix of float16, added to an m x n matrix of float32. */
export interface SubgroupMatrix {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Invocations of a subgroup: the same for all of a device, or the kernels could not be written. */
  readonly subgroup: number;
}

/** What newer adapters say of themselves, beyond what the types know. */
interface MatrixInfo {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: Iterable<{
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }>;
}

/** Of devices whose own information leaves it out, as that of dawn.node does. */
const noted = new WeakMap<GPUDevice, GPUAdapterInfo>();

/** Keeps what only the adapter says of a device's matrices. */
export function noteSubgroupMatrix(device: GPUDevice, info: GPUAdapterInfo): void {
  noted.set(device, info);
}

/** The shape to use on a device. */
export const subgroupMatrixOfDevice = (device: GPUDevice): SubgroupMatrix | undefined =>
  subgroupMatrixOf(device.features, device.adapterInfo) ??
  (noted.has(device) ? subgroupMatrixOf(device.features, noted.get(device)!) : undefined);

/** The shape with most work a product; undefined if there is none. */
export function subgroupMatrixOf(features: GPUSupportedFeatures, info: GPUAdapterInfo): SubgroupMatrix | undefined {
  if (!features.has(SUBGROUP_MATRIX_FEATURE as GPUFeatureName) || !features.has('shader-f16')) return undefined;
  return shapesOf(info as MatrixInfo).sort((a, b) => b.m * b.n * b.k - a.m * a.n * a.k)[0];
}

function shapesOf({ subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs = [] }: MatrixInfo): SubgroupMatrix[] {
  if (!subgroupMinSize || subgroupMinSize !== subgroupMaxSize) return [];
  return [...subgroupMatrixConfigs]
    .filter(({ componentType, resultComponentType }) => componentType === 'f16' && resultComponentType === 'f32')
    .map(({ M, N, K }) => ({ m: M, n: N, k: K, subgroup: subgroupMinSize }));
}

export const usesSubgroupMatrix = (source: string): boolean => source.includes('subgroup_matrix_');

/** The same kernel in the older syntax. */
export const olderSyntax = (source: string): string =>
  source
    .replace(
      /subgroupMatrixLoad<(.*?),\s*(row|col)_major>\(([^;]*),\s*([^,;]*)\);/g,
      (_, type, order, place, stride) => {
        return `subgroupMatrixLoad<${type}>(${place}, ${order === 'col'}, ${stride});`;
      },
    )
    .replace(/subgroupMatrixStore<(row|col)_major>\(([^;]*),\s*([^,;]*)\);/g, (_, order, place, stride) => {
      return `subgroupMatrixStore(${place}, ${order === 'col'}, ${stride});`;
    });
