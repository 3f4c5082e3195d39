// Matrix product with few rows, for embeddings, in one dispatch: the invocations of a workgroup share the sum of an output
// quad, and read neighbouring blocks of the matrix, each once.
//
//   y[r, o] = sum over i of w[o, i] * x[r, i] + bias[o] (+ residual[r, o])     o, i: quads of channels
//
// x [ROWS, IN_QUADS] of vec4f, weights [OUT_QUADS, IN_QUADS] of mat4x4f, a column per input channel, bias [OUT_QUADS], y and
// residual [ROWS, OUT_QUADS] of vec4f. One workgroup makes RUN rows of one output quad: id.x is the quad, id.y counts row
// tiles. BIAS and RESIDUAL are 1 or 0.

const RUN: u32 = 1u; // tile: rows a workgroup
const THREADS: u32 = 64u;

override ROWS: u32;
override IN_QUADS: u32;
override OUT_QUADS: u32;
override BIAS: u32;
override RESIDUAL: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

var<workgroup> partial: array<vec4f, THREADS>;

// The sum of every invocation's value, for all of them. Exchanged for subgroup operations where a call asks for them.
fn workgroup_sum(thread: u32, value: vec4f) -> vec4f {
  partial[thread] = value;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if (thread < half) {
      partial[thread] += partial[thread + half];
    }
    workgroupBarrier();
  }
  let sum = partial[0];
  workgroupBarrier();
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let quad = id.x;
  let first_row = id.y * RUN;
  var source: array<u32, RUN>; // where each row begins; a row too many repeats the last
  var sums: array<vec4f, RUN>;
  for (var r = 0u; r < RUN; r++) {
    source[r] = min(first_row + r, ROWS - 1u) * IN_QUADS;
    sums[r] = vec4f();
  }
  for (var c = thread; c < IN_QUADS; c += THREADS) {
    let w = weights[quad * IN_QUADS + c];
    for (var r = 0u; r < RUN; r++) {
      sums[r] += w * x[source[r] + c];
    }
  }
  for (var r = 0u; r < RUN; r++) {
    var sum = workgroup_sum(thread, sums[r]);
    let row = first_row + r;
    if (thread == 0u && row < ROWS) {
      if (BIAS == 1u) {
        sum += bias[quad];
      }
      if (RESIDUAL == 1u) {
        sum += residual[row * OUT_QUADS + quad];
      }
      y[row * OUT_QUADS + quad] = sum;
    }
  }
}
