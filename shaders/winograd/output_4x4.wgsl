// Winograd F(4 x 4, 3 x 3), last of three steps: the products back to a 4 x 4 tile of outputs.
//
//   y = A^T m A + bias (+ residual)     A^T = | 1    1     1    1     1   0 |      at the points 0, ±1/√2, ±√2, infinity
//                                             | 0  √2/2 -√2/2  √2   -√2  0 |
//                                             | 0   1/2   1/2   2     2   0 |
//                                             | 0  √2/4 -√2/4 2√2  -2√2  1 |
//
// m [36, N * TILES_Y * TILES_X, QUADS] of vec4f (products.wgsl), y and residual [N, HEIGHT, WIDTH, QUADS] of vec4f, bias
// [QUADS]. One invocation a tile and quad of channels, neighbours in the channels; what lies beyond the edge is not stored.
// Host checks: TILES = N * TILES_Y * TILES_X, TILES_Y = ceil(HEIGHT / 4), TILES_X = ceil(WIDTH / 4).
// BIAS and RESIDUAL are 1 or 0.

override HEIGHT: u32;
override WIDTH: u32;
override QUADS: u32;
override TILES: u32;
override TILES_Y: u32;
override TILES_X: u32;
override BIAS: u32;
override RESIDUAL: u32;

@group(0) @binding(0) var<storage, read> m: array<vec4f>;
@group(0) @binding(1) var<storage, read> bias: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

const ROOT = 1.41421356237309505;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= TILES * QUADS) {
    return;
  }
  let c = index % QUADS;
  let tile = index / QUADS;
  let oy_first = tile / TILES_X % TILES_Y * 4u;
  let ox_first = tile % TILES_X * 4u;
  let image = tile / (TILES_X * TILES_Y) * HEIGHT;

  var columns: array<vec4f, 24>; // A^T m: 4 rows of 6
  for (var j = 0u; j < 6u; j++) {
    let m0 = m[(j * TILES + tile) * QUADS + c];
    let m1 = m[((6u + j) * TILES + tile) * QUADS + c];
    let m2 = m[((12u + j) * TILES + tile) * QUADS + c];
    let m3 = m[((18u + j) * TILES + tile) * QUADS + c];
    let m4 = m[((24u + j) * TILES + tile) * QUADS + c];
    let m5 = m[((30u + j) * TILES + tile) * QUADS + c];
    let low_sum = m1 + m2;
    let low = 0.5 * ROOT * (m1 - m2);
    let high_sum = m3 + m4;
    let high = ROOT * (m3 - m4);
    columns[j] = m0 + low_sum + high_sum;
    columns[6u + j] = low + high;
    columns[12u + j] = 0.5 * low_sum + 2.0 * high_sum;
    columns[18u + j] = 0.5 * low + 2.0 * high + m5;
  }
  var start = vec4f();
  if (BIAS == 1u) {
    start = bias[c];
  }
  for (var i = 0u; i < 4u; i++) {
    let low_sum = columns[i * 6u + 1u] + columns[i * 6u + 2u];
    let low = 0.5 * ROOT * (columns[i * 6u + 1u] - columns[i * 6u + 2u]);
    let high_sum = columns[i * 6u + 3u] + columns[i * 6u + 4u];
    let high = ROOT * (columns[i * 6u + 3u] - columns[i * 6u + 4u]);
    var line: array<vec4f, 4>;
    line[0] = columns[i * 6u] + low_sum + high_sum;
    line[1] = low + high;
    line[2] = 0.5 * low_sum + 2.0 * high_sum;
    line[3] = 0.5 * low + 2.0 * high + columns[i * 6u + 5u];
    for (var j = 0u; j < 4u; j++) {
      if (oy_first + i < HEIGHT && ox_first + j < WIDTH) {
        let at = ((image + oy_first + i) * WIDTH + ox_first + j) * QUADS + c;
        var value = line[j] + start;
        if (RESIDUAL == 1u) {
          value += residual[at];
        }
        y[at] = value;
      }
    }
  }
}
