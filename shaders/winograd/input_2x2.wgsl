// Winograd F(2 x 2, 3 x 3), first of three steps: the input of each 2 x 2 tile of outputs, transformed.
//
//   v = B^T d B     d: the 4 x 4 inputs of a tile, zero outside of the image
//
//   B^T = | 1  0 -1  0 |
//         | 0  1  1  0 |
//         | 0 -1  1  0 |
//         | 0  1  0 -1 |
//
// x [N, HEIGHT, WIDTH, QUADS] of vec4f; v [16, N * TILES_Y * TILES_X, QUADS] of vec4f, the 16 points of the transform row by
// row. One invocation a tile and quad of channels, neighbours in the channels. With NORM x is what a GroupNorm is made of, and
// coefficients [N, 4, QUADS] its affine maps: center, factor, offset (group_norm/apply.wgsl); with SILU, SiLU follows.
// X_SHIFT is 1 where x is stored at half the size and stands for its nearest-neighbour enlargement, else 0.
// Host checks: TILES = N * TILES_Y * TILES_X, TILES_Y = ceil(HEIGHT / 2), TILES_X = ceil(WIDTH / 2).

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

// A column of B^T.
fn shares_of(column: i32) -> vec4f {
  switch (column) {
    case 0 { return vec4f(1.0, 0.0, 0.0, 0.0); }
    case 1 { return vec4f(0.0, 1.0, -1.0, 1.0); }
    case 2 { return vec4f(-1.0, 1.0, 1.0, 0.0); }
    default { return vec4f(0.0, 0.0, 0.0, -1.0); }
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
  let iy_first = i32(tile / TILES_X % TILES_Y * 2u) - 1;
  let ix_first = i32(tile % TILES_X * 2u) - 1;
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

  // A column of the tile at a time, so that a compiler sees 4 loads and not 16: B^T from the left, then its share of the
  // product from the right.
  var sums: array<vec4f, 16>;
  for (var k = 0u; k < 16u; k++) {
    sums[k] = vec4f();
  }
  var rows: array<u32, 4>; // where each row begins, in pixels
  var within: array<bool, 4>; // whether it is inside of the image
  for (var i = 0u; i < 4u; i++) {
    let iy = iy_first + i32(i);
    rows[i] = (image * (HEIGHT >> X_SHIFT) + (u32(clamp(iy, 0, i32(HEIGHT) - 1)) >> X_SHIFT)) * (WIDTH >> X_SHIFT);
    within[i] = iy >= 0 && iy < i32(HEIGHT);
  }
  for (var column = 0; column < 4; column++) {
    let ix = ix_first + column;
    let at = u32(clamp(ix, 0, i32(WIDTH) - 1)) >> X_SHIFT;
    let inside = ix >= 0 && ix < i32(WIDTH);
    var d: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) {
      var value = x[(rows[i] + at) * QUADS + c];
      if (NORM) {
        value = normalised(value, center, factor, offset);
      }
      d[i] = select(vec4f(), value, inside && within[i]);
    }
    var lines: array<vec4f, 4>;
    lines[0] = d[0] - d[2];
    lines[1] = d[1] + d[2];
    lines[2] = d[2] - d[1];
    lines[3] = d[1] - d[3];
    let shares = shares_of(column);
    for (var i = 0u; i < 4u; i++) {
      sums[4u * i] += shares.x * lines[i];
      sums[4u * i + 1u] += shares.y * lines[i];
      sums[4u * i + 2u] += shares.z * lines[i];
      sums[4u * i + 3u] += shares.w * lines[i];
    }
  }
  for (var i = 0u; i < 4u; i += 1u) {
    for (var j = 0u; j < 4u; j++) {
      v[((4u * i + j) * TILES + tile) * QUADS + c] = sums[4u * i + j];
    }
  }
}
