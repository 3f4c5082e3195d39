// Winograd F(2 x 2, 3 x 3), last of three steps: the products back to a 2 x 2 tile of outputs.
//
//   y = A^T m A + bias (+ residual)     A^T = | 1  1  1  0 |
//                                             | 0  1 -1 -1 |
//
// m [16, N * TILES_Y * TILES_X, QUADS] of vec4f (products.wgsl), y and residual [N, HEIGHT, WIDTH, QUADS] of vec4f, bias
// [QUADS]. One invocation a tile and quad of channels, neighbours in the channels; what lies beyond the edge is not stored.
// Host checks: TILES = N * TILES_Y * TILES_X, TILES_Y = ceil(HEIGHT / 2), TILES_X = ceil(WIDTH / 2).
// RESIDUAL_SHIFT is 1 where the residual is stored at half the size and stands for its nearest-neighbour enlargement, else 0.
// BIAS and RESIDUAL are 1 or 0.

override HEIGHT: u32;
override WIDTH: u32;
override QUADS: u32;
override TILES: u32;
override TILES_Y: u32;
override TILES_X: u32;
override BIAS: u32;
override RESIDUAL: u32;
override RESIDUAL_SHIFT: u32;

@group(0) @binding(0) var<storage, read> m: array<vec4f>;
@group(0) @binding(1) var<storage, read> bias: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= TILES * QUADS) {
    return;
  }
  let c = index % QUADS;
  let tile = index / QUADS;
  let oy_first = tile / TILES_X % TILES_Y * 2u;
  let ox_first = tile % TILES_X * 2u;
  let image = tile / (TILES_X * TILES_Y);

  // A column of m at a time: A^T from the left, then its share of the product from the right.
  var sums: array<vec4f, 4>;
  for (var k = 0u; k < 4u; k++) {
    sums[k] = vec4f();
  }
  let row = 4u * TILES * QUADS;
  for (var column = 0u; column < 4u; column++) {
    let at = (column * TILES + tile) * QUADS + c;
    let m1 = m[at + row];
    let m2 = m[at + 2u * row];
    var lines: array<vec4f, 2>;
    lines[0] = m[at] + m1 + m2;
    lines[1] = m1 - m2 - m[at + 3u * row];
    let first = select(1.0, 0.0, column == 3u);
    let second = select(select(-1.0, 0.0, column == 0u), 1.0, column == 1u);
    for (var i = 0u; i < 2u; i++) {
      sums[2u * i] += first * lines[i];
      sums[2u * i + 1u] += second * lines[i];
    }
  }
  var start = vec4f();
  if (BIAS == 1u) {
    start = bias[c];
  }
  for (var i = 0u; i < 2u; i++) {
    for (var j = 0u; j < 2u; j++) {
      let oy = oy_first + i;
      let ox = ox_first + j;
      if (oy < HEIGHT && ox < WIDTH) {
        var value = sums[2u * i + j] + start;
        if (RESIDUAL == 1u) {
          let row = image * (HEIGHT >> RESIDUAL_SHIFT) + (oy >> RESIDUAL_SHIFT);
          value += residual[(row * (WIDTH >> RESIDUAL_SHIFT) + (ox >> RESIDUAL_SHIFT)) * QUADS + c];
        }
        y[((image * HEIGHT + oy) * WIDTH + ox) * QUADS + c] = value;
      }
    }
  }
}
