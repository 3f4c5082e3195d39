// Matrix product with the rows of an activation: a linear layer, or a 1 x 1 convolution, where a pixel is a row.
//
//   y[r, o] = bias[o] + residual[r, o] + sum over i of w[o, i] * x[r, i]
//
// x [ROWS, IN_QUADS], y and residual [ROWS, OUT_QUADS] of vec4f, bias [OUT_QUADS], weights [OUT_QUADS, IN_QUADS] of mat4x4f,
// a column per input channel.
//
// One invocation makes RUN rows times QUADS channel quads in registers; id.x counts row tiles, id.y quad tiles.
// Saved for the backward pass: nothing. The input gradient is this kernel on the transposed weights.
// BIAS and RESIDUAL are 1 or 0.

const RUN: u32 = 4u; // tile: rows an invocation
const QUADS: u32 = 2u; // tile: output channel quads an invocation

override ROWS: u32;
override IN_QUADS: u32;
override OUT_QUADS: u32;
override BIAS: u32;
override RESIDUAL: u32;
override THREADS_X: u32 = 8u;
override THREADS_Y: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first_row = id.x * RUN;
  let first_quad = id.y * QUADS;
  if (first_row >= ROWS || first_quad >= OUT_QUADS) {
    return;
  }

  var source: array<u32, RUN>; // where each row begins; a row too many repeats the last
  for (var r = 0u; r < RUN; r++) {
    source[r] = min(first_row + r, ROWS - 1u) * IN_QUADS;
  }
  var kernel: array<u32, QUADS>;
  var sums: array<vec4f, RUN * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    let quad = min(first_quad + q, OUT_QUADS - 1u);
    kernel[q] = quad * IN_QUADS;
    var start = vec4f();
    if (BIAS == 1u) {
      start = bias[quad];
    }
    for (var r = 0u; r < RUN; r++) {
      sums[q * RUN + r] = start;
    }
  }

  for (var c = 0u; c < IN_QUADS; c++) {
    var line: array<vec4f, RUN>;
    for (var r = 0u; r < RUN; r++) {
      line[r] = x[source[r] + c];
    }
    for (var q = 0u; q < QUADS; q++) {
      let w = weights[kernel[q] + c];
      for (var r = 0u; r < RUN; r++) {
        sums[q * RUN + r] += w * line[r];
      }
    }
  }

  for (var r = 0u; r < RUN; r += 1u) {
    // A row or quad too many has the sums of the last one, and stores them there again.
    let row = min(first_row + r, ROWS - 1u) * OUT_QUADS;
    for (var q = 0u; q < QUADS; q++) {
      let at = row + min(first_quad + q, OUT_QUADS - 1u);
      var value = sums[q * RUN + r];
      if (RESIDUAL == 1u) {
        value += residual[at];
      }
      y[at] = value;
    }
  }
}
