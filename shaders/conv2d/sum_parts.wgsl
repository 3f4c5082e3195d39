// The sum of a product's parts, plus bias, plus an optional residual: the second step of split convolutions and products.
//
//   y[p, o] = bias[o] + residual[p, o] + sum over parts s of parts[s, p, o]
//
// parts [PARTS, VECTORS], y and residual [VECTORS] of vec4f, VECTORS = N * OUT_HEIGHT * OUT_WIDTH * OUT_QUADS, bias
// [OUT_QUADS]. RESIDUAL_SHIFT is 1 where the residual is stored at half the size and stands for its nearest-neighbour
// enlargement, else 0. One invocation a vec4f, always in the same order. BIAS and RESIDUAL are 1 or 0.

override VECTORS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override OUT_QUADS: u32;
override PARTS: u32;
override BIAS: u32;
override RESIDUAL: u32;
override RESIDUAL_SHIFT: u32;

@group(0) @binding(0) var<storage, read> parts: array<vec4f>;
@group(0) @binding(1) var<storage, read> bias: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= VECTORS) {
    return;
  }
  var sum = vec4f();
  for (var s = 0u; s < PARTS; s++) {
    sum += parts[s * VECTORS + index];
  }
  if (BIAS == 1u) {
    sum += bias[index % OUT_QUADS];
  }
  if (RESIDUAL == 1u) {
    let pixel = index / OUT_QUADS;
    let row = pixel / OUT_WIDTH;
    let residual_row = row / OUT_HEIGHT * (OUT_HEIGHT >> RESIDUAL_SHIFT) + ((row % OUT_HEIGHT) >> RESIDUAL_SHIFT);
    let residual_pixel = residual_row * (OUT_WIDTH >> RESIDUAL_SHIFT) + ((pixel % OUT_WIDTH) >> RESIDUAL_SHIFT);
    sum += residual[residual_pixel * OUT_QUADS + index % OUT_QUADS];
  }
  y[index] = sum;
}
