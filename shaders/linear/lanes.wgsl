// Matrix product with few rows, for embeddings: neighbouring invocations share an output quad and take input quads in turn,
// so that they read neighbouring blocks of the matrix. First of two steps; conv2d/sum_parts.wgsl adds the parts.
//
//   parts[l, r, o] = sum over i = l, l + LANES, l + 2 LANES, ... of w[o, i] * x[r, i]     o, i: quads of channels
//
// x [ROWS, IN_QUADS] of vec4f, weights [OUT_QUADS, IN_QUADS] of mat4x4f, a column per input channel, parts [LANES, ROWS,
// OUT_QUADS] of vec4f. One invocation makes RUN rows of one output quad and lane: id.x counts quads and lanes, lanes next to
// each other, id.y counts row tiles.

const RUN: u32 = 1u; // tile: rows an invocation

override ROWS: u32;
override IN_QUADS: u32;
override OUT_QUADS: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let lane = id.x % LANES;
  let quad = id.x / LANES;
  let first_row = id.y * RUN;
  if (quad >= OUT_QUADS) {
    return;
  }
  var source: array<u32, RUN>; // where each row begins; a row too many repeats the last
  var sums: array<vec4f, RUN>;
  for (var r = 0u; r < RUN; r++) {
    source[r] = min(first_row + r, ROWS - 1u) * IN_QUADS;
    sums[r] = vec4f();
  }
  for (var c = lane; c < IN_QUADS; c += LANES) {
    let w = weights[quad * IN_QUADS + c];
    for (var r = 0u; r < RUN; r++) {
      sums[r] += w * x[source[r] + c];
    }
  }
  for (var r = 0u; r < RUN; r++) {
    if (first_row + r < ROWS) {
      parts[(lane * ROWS + first_row + r) * OUT_QUADS + quad] = sums[r];
    }
  }
}
