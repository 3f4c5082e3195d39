// Winograd's transform of packed 3 x 3 kernels, once, when parameters are packed.
//
//   u = G g G^T     g: the 3 x 3 kernel of one input and one output channel
//
//   TILE 2:  G = |  1    0    0  |      TILE 4:  G = |   1       0      0  |
//                | 1/2  1/2  1/2 |                   | -2/3  -√2/3   -1/3 |
//                | 1/2 -1/2  1/2 |                   | -2/3   √2/3   -1/3 |
//                |  0    0    1  |                   |  1/6  √2/6    1/3 |
//                                                    |  1/6 -√2/6    1/3 |
//                                                    |   0       0      1  |
//
// The matrices of TILE 4 interpolate at 0, ±1/√2, ±√2 and infinity. With the usual points, 0, ±1, ±2, the result is twice
// as far from the exact one.
//
// blocks [OUT_QUADS, 9, IN_QUADS] of mat4x4f as pack_matrix.wgsl makes them (transposed or not, taps reversed or not),
// transformed [OUT_QUADS, points * points, IN_QUADS] of mat4x4f, points = TILE + 2. One invocation a row of points.

override TILE: u32; // outputs of a tile in each direction, 2 or 4
override IN_QUADS: u32;
override OUT_QUADS: u32;

@group(0) @binding(0) var<storage, read> blocks: array<mat4x4f>;
@group(0) @binding(1) var<storage, read_write> transformed: array<mat4x4f>;

const HALF_ROOT = 0.70710678118654752; // √2 / 2

// One entry of G.
fn factor(row: u32, column: u32) -> f32 {
  if (row == 0u) {
    return f32(column == 0u);
  }
  if (row == TILE + 1u) {
    return f32(column == 2u);
  }
  let sign = select(1.0, -1.0, row % 2u == 0u && column == 1u);
  if (TILE == 2u) {
    return sign * 0.5;
  }
  let low = row <= 2u;
  if (column == 0u) {
    return select(1.0 / 6.0, -2.0 / 3.0, low);
  }
  if (column == 1u) {
    return sign * HALF_ROOT * select(1.0 / 3.0, -2.0 / 3.0, low);
  }
  return select(1.0 / 3.0, -1.0 / 3.0, low);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let points = TILE + 2u;
  let index = id.x + id.y * groups.x * 64u;
  if (index >= OUT_QUADS * points * IN_QUADS) {
    return;
  }
  let c = index % IN_QUADS;
  let row = index / IN_QUADS % points;
  let out = index / (IN_QUADS * points);

  var left = mat4x4f(); // a row of G g, its three columns
  var middle = mat4x4f();
  var right = mat4x4f();
  for (var y = 0u; y < 3u; y++) {
    let at = (out * 9u + y * 3u) * IN_QUADS + c;
    let share = factor(row, y);
    left += share * blocks[at];
    middle += share * blocks[at + IN_QUADS];
    right += share * blocks[at + 2u * IN_QUADS];
  }
  for (var column = 0u; column < points; column++) {
    let at = ((out * points + row) * points + column) * IN_QUADS + c;
    transformed[at] = factor(column, 0u) * left + factor(column, 1u) * middle + factor(column, 2u) * right;
  }
}
