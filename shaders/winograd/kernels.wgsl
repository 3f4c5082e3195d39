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
// transformed [OUT_QUADS, points * points, IN_QUADS] of mat4x4f, points = TILE + 2; both seen as columns, of four output
// channels and one input channel. One invocation the kernels of a column.

override TILE: u32; // outputs of a tile in each direction, 2 or 4
override IN_QUADS: u32;
override OUT_QUADS: u32;

@group(0) @binding(0) var<storage, read> blocks: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> transformed: array<vec4f>;

const HALF_ROOT = 0.70710678118654752; // √2 / 2

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let columns = 4u * IN_QUADS;
  if (index >= OUT_QUADS * columns) {
    return;
  }
  let c = index % columns;
  let out = index / columns;

  var g: array<vec4f, 9>;
  for (var t = 0u; t < 9u; t++) {
    g[t] = blocks[(out * 9u + t) * columns + c];
  }
  let points = TILE + 2u;
  let large = TILE == 4u;
  // Rows of G come in pairs that differ in the sign of the middle column: those of ±1/√2, or ±1, and those of ±√2.
  let near = select(vec3f(0.5), vec3f(-2.0 / 3.0, -2.0 / 3.0 * HALF_ROOT, -1.0 / 3.0), large);
  let far = vec3f(1.0 / 6.0, 1.0 / 3.0 * HALF_ROOT, 1.0 / 3.0);
  for (var row = 0u; row < points; row++) {
    var f = select(far, near, row <= 2u);
    f.y = select(-f.y, f.y, row % 2u == 1u);
    f = select(f, vec3f(1.0, 0.0, 0.0), row == 0u);
    f = select(f, vec3f(0.0, 0.0, 1.0), row == points - 1u);
    let left = f.x * g[0] + f.y * g[3] + f.z * g[6]; // a row of G g, its three columns
    let middle = f.x * g[1] + f.y * g[4] + f.z * g[7];
    let right = f.x * g[2] + f.y * g[5] + f.z * g[8];
    let at = (out * points + row) * points * columns + c;
    transformed[at] = left;
    let near_even = near.x * left + near.z * right;
    let near_odd = near.y * middle;
    transformed[at + columns] = near_even + near_odd;
    transformed[at + 2u * columns] = near_even - near_odd;
    if (large) {
      let far_even = far.x * left + far.z * right;
      let far_odd = far.y * middle;
      transformed[at + 3u * columns] = far_even + far_odd;
      transformed[at + 4u * columns] = far_even - far_odd;
    }
    transformed[at + (points - 1u) * columns] = right;
  }
}
