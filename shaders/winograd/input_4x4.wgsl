// Winograd F(4 x 4, 3 x 3), first of three steps: the input of each 4 x 4 tile of outputs, transformed.
//
//   v = B^T d B     d: the 6 x 6 inputs of a tile, zero outside of the image
//
//   B^T = | 1    0   -5/2    0     1   0 |      at the points 0, ±1/√2, ±√2, infinity (kernels.wgsl)
//         | 0  -√2    -2   √2/2   1   0 |
//         | 0   √2    -2  -√2/2   1   0 |
//         | 0 -√2/2  -1/2   √2    1   0 |
//         | 0  √2/2  -1/2  -√2    1   0 |
//         | 0    1     0   -5/2   0   1 |
//
// x [N, HEIGHT, WIDTH, QUADS] of vec4f; v [36, N * TILES_Y * TILES_X, QUADS] of vec4f, the 36 points of the transform row by
// row. One invocation a tile and quad of channels, neighbours in the channels.
// Host checks: TILES = N * TILES_Y * TILES_X, TILES_Y = ceil(HEIGHT / 4), TILES_X = ceil(WIDTH / 4).

override HEIGHT: u32;
override WIDTH: u32;
override QUADS: u32;
override TILES: u32;
override TILES_Y: u32;
override TILES_X: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> v: array<vec4f>;

const ROOT = 1.41421356237309505;
const HALF_ROOT = 0.70710678118654752;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= TILES * QUADS) {
    return;
  }
  let c = index % QUADS;
  let tile = index / QUADS;
  let iy_first = i32(tile / TILES_X % TILES_Y * 4u) - 1;
  let ix_first = i32(tile % TILES_X * 4u) - 1;
  let image = tile / (TILES_X * TILES_Y) * HEIGHT;

  var column: array<u32, 6>; // where each column of the tile begins, and whether it is inside of the image
  var within: array<bool, 6>;
  for (var j = 0u; j < 6u; j++) {
    let ix = ix_first + i32(j);
    column[j] = u32(clamp(ix, 0, i32(WIDTH) - 1)) * QUADS + c;
    within[j] = ix >= 0 && ix < i32(WIDTH);
  }
  var d: array<vec4f, 36>;
  for (var i = 0u; i < 6u; i++) {
    let iy = iy_first + i32(i);
    let row = (image + u32(clamp(iy, 0, i32(HEIGHT) - 1))) * WIDTH * QUADS;
    let row_within = iy >= 0 && iy < i32(HEIGHT);
    for (var j = 0u; j < 6u; j++) {
      d[i * 6u + j] = select(vec4f(), x[row + column[j]], row_within && within[j]);
    }
  }
  for (var j = 0u; j < 6u; j++) {
    let d1 = d[6u + j];
    let d2 = d[12u + j];
    let d3 = d[18u + j];
    let d4 = d[24u + j];
    let even_low = d4 - 2.0 * d2;
    let odd_low = HALF_ROOT * d3 - ROOT * d1;
    let even_high = d4 - 0.5 * d2;
    let odd_high = ROOT * d3 - HALF_ROOT * d1;
    d[j] += d4 - 2.5 * d2;
    d[6u + j] = even_low + odd_low;
    d[12u + j] = even_low - odd_low;
    d[18u + j] = even_high + odd_high;
    d[24u + j] = even_high - odd_high;
    d[30u + j] += d1 - 2.5 * d3;
  }
  for (var i = 0u; i < 6u; i++) {
    let d1 = d[i * 6u + 1u];
    let d2 = d[i * 6u + 2u];
    let d3 = d[i * 6u + 3u];
    let d4 = d[i * 6u + 4u];
    let even_low = d4 - 2.0 * d2;
    let odd_low = HALF_ROOT * d3 - ROOT * d1;
    let even_high = d4 - 0.5 * d2;
    let odd_high = ROOT * d3 - HALF_ROOT * d1;
    d[i * 6u] += d4 - 2.5 * d2;
    d[i * 6u + 1u] = even_low + odd_low;
    d[i * 6u + 2u] = even_low - odd_low;
    d[i * 6u + 3u] = even_high + odd_high;
    d[i * 6u + 4u] = even_high - odd_high;
    d[i * 6u + 5u] += d1 - 2.5 * d3;
  }
  for (var k = 0u; k < 36u; k++) {
    v[(k * TILES + tile) * QUADS + c] = d[k];
  }
}
