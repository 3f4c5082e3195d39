/**
 * @file Symmetric matrices, row-major [n, n]: eigenvalues by Jacobi's rotations, products, square roots.
 */

export interface Eigen {
  readonly values: Float64Array;
  /** Row k is the eigenvector of value k. */
  readonly vectors: Float64Array;
}

/** Cyclic Jacobi (Golub & Van Loan, section 8.5): slow for large n, exact to rounding for any symmetric matrix. */
export function eigen(matrix: Float64Array, n: number): Eigen {
  const a = Float64Array.from(matrix);
  const v = new Float64Array(n * n);
  for (let i = 0; i < n; i++) v[i * n + i] = 1;
  let norm = 0;
  for (const value of a) norm += value * value;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += a[p * n + q]! ** 2;
    if (off <= 1e-28 * norm) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, v, n, p, q);
  }
  return { values: Float64Array.from({ length: n }, (_, i) => a[i * n + i]!), vectors: v };
}

/** Makes a[p, q] zero. */
function rotate(a: Float64Array, v: Float64Array, n: number, p: number, q: number): void {
  const apq = a[p * n + q]!;
  if (apq === 0) return;
  const theta = (a[q * n + q]! - a[p * n + p]!) / (2 * apq);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = t * c;
  for (let k = 0; k < n; k++) {
    const kp = a[k * n + p]!;
    const kq = a[k * n + q]!;
    a[k * n + p] = c * kp - s * kq;
    a[k * n + q] = s * kp + c * kq;
  }
  for (let k = 0; k < n; k++) {
    const pk = a[p * n + k]!;
    const qk = a[q * n + k]!;
    a[p * n + k] = c * pk - s * qk;
    a[q * n + k] = s * pk + c * qk;
    const vp = v[p * n + k]!;
    const vq = v[q * n + k]!;
    v[p * n + k] = c * vp - s * vq;
    v[q * n + k] = s * vp + c * vq;
  }
}

/** The positive semidefinite square root; what rounding made slightly negative counts as 0. */
export function squareRoot(matrix: Float64Array, n: number): Float64Array {
  const { values, vectors } = eigen(matrix, n);
  const root = new Float64Array(n * n);
  for (let k = 0; k < n; k++) {
    const size = Math.sqrt(Math.max(0, values[k]!));
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) root[i * n + j]! += size * vectors[k * n + i]! * vectors[k * n + j]!;
  }
  return root;
}

export function product(a: Float64Array, b: Float64Array, n: number): Float64Array {
  const c = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < n; k++) {
      const factor = a[i * n + k]!;
      for (let j = 0; j < n; j++) c[i * n + j]! += factor * b[k * n + j]!;
    }
  return c;
}

export function trace(a: Float64Array, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[i * n + i]!;
  return sum;
}
