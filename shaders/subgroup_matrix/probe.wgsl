// The least kernel with matrices held by a subgroup, to find out whether a driver compiles and runs such a thing.
//
//   y = a b + a b      a [M, K] and b [K, N] of f16, y [M, N] of f32
//
// One workgroup of one subgroup. Nothing else is in this file on purpose: drivers have crashed where it was.

enable f16;
enable chromium_experimental_subgroup_matrix;

const M: u32 = 16u; // tile: rows of a result
const N: u32 = 16u; // tile: columns of a result
const K: u32 = 16u; // tile: terms of a sum
const LANES: u32 = 32u; // tile: invocations of a subgroup

@group(0) @binding(0) var<storage, read> a: array<f16>;
@group(0) @binding(1) var<storage, read> b: array<f16>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main() {
  let left = subgroupMatrixLoad<subgroup_matrix_left<f16, K, M>, row_major>(&a, 0u, K);
  let right = subgroupMatrixLoad<subgroup_matrix_right<f16, N, K>, row_major>(&b, 0u, N);
  let once = subgroupMatrixMultiplyAccumulate(left, right, subgroup_matrix_result<f32, N, M>());
  let twice = subgroupMatrixMultiplyAccumulate(left, right, once);
  subgroupMatrixStore<row_major>(&y, 0u, twice, N);
}
