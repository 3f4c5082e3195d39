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
// row. One invocation a tile and quad of channels, neighbours in the channels. With NORM x is what a GroupNorm is made of, and
// coefficients [N, 4, QUADS] its affine maps: center, factor, offset (group_norm/apply.wgsl); with SILU, SiLU follows.
// X_SHIFT is 1 where x is stored at half the size and stands for its nearest-neighbour enlargement, else 0.
// Host checks: TILES = N * TILES_Y * TILES_X, TILES_Y = ceil(HEIGHT / 4), TILES_X = ceil(WIDTH / 4).

override HEIGHT: u32;
override WIDTH: u32;
override QUADS: u32;
override TILES: u32;
override TILES_Y: u32;
override TILES_X: u32;
override X_SHIFT: u32;
override NORM: bool = false;
override SILU: bool = false;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> v: array<vec4f>;

fn normalised(value: vec4f, center: vec4f, factor: vec4f, offset: vec4f) -> vec4f {
  let z = (value - center) * factor + offset;
  if (SILU) {
    return z / (1.0 + exp(min(-z, vec4f(80.0))));
  }
  return z;
}

const ROOT = 1.41421356237309505;
const HALF_ROOT = 0.70710678118654752;

// A column of B^T: its first three rows, and the others.
fn low_shares(column: i32) -> vec3f {
  switch (column) {
    case 0 { return vec3f(1.0, 0.0, 0.0); }
    case 1 { return vec3f(0.0, -ROOT, ROOT); }
    case 2 { return vec3f(-2.5, -2.0, -2.0); }
    case 3 { return vec3f(0.0, HALF_ROOT, -HALF_ROOT); }
    case 4 { return vec3f(1.0, 1.0, 1.0); }
    default { return vec3f(); }
  }
}

fn high_shares(column: i32) -> vec3f {
  switch (column) {
    case 0 { return vec3f(); }
    case 1 { return vec3f(-HALF_ROOT, HALF_ROOT, 1.0); }
    case 2 { return vec3f(-0.5, -0.5, 0.0); }
    case 3 { return vec3f(ROOT, -ROOT, -2.5); }
    case 4 { return vec3f(1.0, 1.0, 0.0); }
    default { return vec3f(0.0, 0.0, 1.0); }
  }
}

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
  let image = tile / (TILES_X * TILES_Y);

  var center = vec4f();
  var factor = vec4f();
  var offset = vec4f();
  if (NORM) {
    let at = image * 4u * QUADS + c;
    center = coefficients[at];
    factor = coefficients[at + QUADS];
    offset = coefficients[at + 2u * QUADS];
  }

  // A column of the tile at a time, so that a compiler sees 6 loads and not 36: B^T from the left, then its share of the
  // product from the right.
  var sums: array<vec4f, 36>;
  for (var k = 0u; k < 36u; k++) {
    sums[k] = vec4f();
  }
  var rows: array<u32, 6>; // where each row begins, in pixels
  var within: array<bool, 6>; // whether it is inside of the image
  for (var i = 0u; i < 6u; i++) {
    let iy = iy_first + i32(i);
    rows[i] = (image * (HEIGHT >> X_SHIFT) + (u32(clamp(iy, 0, i32(HEIGHT) - 1)) >> X_SHIFT)) * (WIDTH >> X_SHIFT);
    within[i] = iy >= 0 && iy < i32(HEIGHT);
  }
  for (var column = 0; column < 6; column++) {
    let ix = ix_first + column;
    let at = u32(clamp(ix, 0, i32(WIDTH) - 1)) >> X_SHIFT;
    let inside = ix >= 0 && ix < i32(WIDTH);
    var d: array<vec4f, 6>;
    for (var i = 0u; i < 6u; i++) {
      var value = x[(rows[i] + at) * QUADS + c];
      if (NORM) {
        value = normalised(value, center, factor, offset);
      }
      d[i] = select(vec4f(), value, inside && within[i]);
    }
    let even_low = d[4] - 2.0 * d[2];
    let odd_low = HALF_ROOT * d[3] - ROOT * d[1];
    let even_high = d[4] - 0.5 * d[2];
    let odd_high = ROOT * d[3] - HALF_ROOT * d[1];
    var lines: array<vec4f, 6>;
    lines[0] = d[0] + d[4] - 2.5 * d[2];
    lines[1] = even_low + odd_low;
    lines[2] = even_low - odd_low;
    lines[3] = even_high + odd_high;
    lines[4] = even_high - odd_high;
    lines[5] = d[1] + d[5] - 2.5 * d[3];
    let low = low_shares(column);
    let high = high_shares(column);
    for (var i = 0u; i < 6u; i++) {
      sums[6u * i] += low.x * lines[i];
      sums[6u * i + 1u] += low.y * lines[i];
      sums[6u * i + 2u] += low.z * lines[i];
      sums[6u * i + 3u] += high.x * lines[i];
      sums[6u * i + 4u] += high.y * lines[i];
      sums[6u * i + 5u] += high.z * lines[i];
    }
  }
  for (var i = 0u; i < 6u; i += 1u) {
    for (var j = 0u; j < 6u; j++) {
      v[((6u * i + j) * TILES + tile) * QUADS + c] = sums[6u * i + j];
    }
  }
}
