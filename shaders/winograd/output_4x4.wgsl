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

const ROOT = 1.41421356237309505;

// A column of A^T: 1, p, p^2 and p^3 for a point p, and the last for infinity.
fn powers_of_point(column: u32) -> vec4f {
  if (column == 0u) {
    return vec4f(1.0, 0.0, 0.0, 0.0);
  }
  if (column == 5u) {
    return vec4f(0.0, 0.0, 0.0, 1.0);
  }
  let sign = select(-1.0, 1.0, column % 2u == 1u);
  let low = column <= 2u;
  let p = sign * select(ROOT, 0.5 * ROOT, low);
  let square = select(2.0, 0.5, low);
  return vec4f(1.0, p, square, square * p);
}

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
  let image = tile / (TILES_X * TILES_Y);
  let row = 6u * TILES * QUADS;

  // A column of m at a time, so that a compiler sees 6 loads and not 36: A^T from the left, then its share of the product
  // from the right.
  var sums: array<vec4f, 16>;
  for (var k = 0u; k < 16u; k++) {
    sums[k] = vec4f();
  }
  for (var column = 0u; column < 6u; column++) {
    let at = (column * TILES + tile) * QUADS + c;
    let m0 = m[at];
    let m1 = m[at + row];
    let m2 = m[at + 2u * row];
    let m3 = m[at + 3u * row];
    let m4 = m[at + 4u * row];
    let m5 = m[at + 5u * row];
    let low_sum = m1 + m2;
    let low = 0.5 * ROOT * (m1 - m2);
    let high_sum = m3 + m4;
    let high = ROOT * (m3 - m4);
    var lines: array<vec4f, 4>;
    lines[0] = m0 + low_sum + high_sum;
    lines[1] = low + high;
    lines[2] = 0.5 * low_sum + 2.0 * high_sum;
    lines[3] = 0.5 * low + 2.0 * high + m5;
    let powers = powers_of_point(column);
    for (var i = 0u; i < 4u; i++) {
      sums[4u * i] += powers.x * lines[i];
      sums[4u * i + 1u] += powers.y * lines[i];
      sums[4u * i + 2u] += powers.z * lines[i];
      sums[4u * i + 3u] += powers.w * lines[i];
    }
  }
  var start = vec4f();
  if (BIAS == 1u) {
    start = bias[c];
  }
  for (var i = 0u; i < 4u; i += 1u) {
    for (var j = 0u; j < 4u; j++) {
      let oy = oy_first + i;
      let ox = ox_first + j;
      if (oy < HEIGHT && ox < WIDTH) {
        var value = sums[4u * i + j] + start;
        if (RESIDUAL == 1u) {
          let row = image * (HEIGHT >> RESIDUAL_SHIFT) + (oy >> RESIDUAL_SHIFT);
          value += residual[(row * (WIDTH >> RESIDUAL_SHIFT) + (ox >> RESIDUAL_SHIFT)) * QUADS + c];
        }
        y[((image * HEIGHT + oy) * WIDTH + ox) * QUADS + c] = value;
      }
    }
  }
}
