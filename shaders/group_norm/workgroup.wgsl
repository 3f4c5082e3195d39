// GroupNorm by workgroups, for GPUs: from x to one affine map a channel, and on small maps to the result, in one dispatch.
//
//   y = (x - center) * factor + offset, then SiLU with SILU          center, factor, offset as in coefficients.wgsl
//
// A span is the least run of quads that holds whole groups: SPAN_QUADS = lcm(4, channels of a group) / 4. One workgroup reads
// a span's pixels twice, first for the channels' means, then for their squared deviations from them: no difference of large
// squares ever occurs. Sums take the same way on every run.
//
// x, y [N, PIXELS, C'/4] of vec4f; embedding [N, EMBEDDING_STRIDE] from EMBEDDING_OFFSET on: scale [C], shift [C]
// (EMBEDDING 1) or e [C] (EMBEDDING 2); gamma, beta [C]; coefficients [N, 4, C'/4]: center, factor, offset, rstd^2 (saved
// for the backward pass). C' is C padded to a multiple of 4. y is written with APPLY alone.
// SILU and APPLY are 1 or 0: sizes, not switches, so that one pipeline serves all.
// id.x is a span, id.y an image.
// Host checks: CHANNELS % GROUPS == 0, SPAN_QUADS * 4 * GROUPS % CHANNELS == 0, SPAN_QUADS <= MAX_SPAN.

const THREADS: u32 = 128u;
const MAX_SPAN: u32 = 16u;

override PIXELS: u32;
override CHANNELS: u32;
override GROUPS: u32;
override SPAN_QUADS: u32;
override EMBEDDING_STRIDE: u32;
override EMBEDDING_OFFSET: u32;
override EPS: f32;
override EMBEDDING: u32;
override SILU: u32;
override APPLY: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> embedding: array<f32>;
@group(0) @binding(4) var<storage, read_write> coefficients: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

var<workgroup> partial: array<vec4f, THREADS>;
var<workgroup> means: array<vec4f, MAX_SPAN>; // of each channel of the span
var<workgroup> squares: array<vec4f, MAX_SPAN>; // sums of squared deviations from them
var<workgroup> maps: array<array<vec4f, 3>, MAX_SPAN>; // center, factor, offset

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
  let quads = (CHANNELS + 3u) / 4u;
  let first_quad = id.x * SPAN_QUADS;
  let count = min(SPAN_QUADS, quads - first_quad);
  let pixels_at = id.y * PIXELS * quads + first_quad;
  let saved = id.y * 4u * quads + first_quad;

  for (var quad = 0u; quad < count; quad++) {
    var sum = vec4f();
    for (var pixel = thread; pixel < PIXELS; pixel += THREADS) {
      sum += x[pixels_at + pixel * quads + quad];
    }
    let mean = workgroup_sum(thread, sum) / f32(PIXELS);
    sum = vec4f();
    for (var pixel = thread; pixel < PIXELS; pixel += THREADS) {
      let deviation = x[pixels_at + pixel * quads + quad] - mean;
      sum += deviation * deviation;
    }
    let spread = workgroup_sum(thread, sum);
    if (thread == 0u) {
      means[quad] = mean;
      squares[quad] = spread;
    }
  }
  workgroupBarrier();

  // One invocation a quad, since a store of one component may touch all four: what their groups are, and the maps.
  let size = CHANNELS / GROUPS;
  let row = id.y * EMBEDDING_STRIDE + EMBEDDING_OFFSET + first_quad * 4u;
  if (thread < count) {
    var center = vec4f();
    var factor = vec4f();
    var offset = vec4f();
    var inverse_variance = vec4f();
    for (var lane = 0u; lane < 4u; lane++) {
      let channel = thread * 4u + lane;
      if (first_quad * 4u + channel >= CHANNELS) {
        break;
      }
      let first = channel / size * size;
      var sum = 0.0;
      for (var c = first; c < first + size; c++) {
        sum += means[c / 4u][c % 4u];
        if (EMBEDDING == 2u) {
          sum += embedding[row + c];
        }
      }
      let mean = sum / f32(size);
      var spread = 0.0;
      for (var c = first; c < first + size; c++) {
        var deviation = means[c / 4u][c % 4u] - mean;
        if (EMBEDDING == 2u) {
          deviation += embedding[row + c];
        }
        spread += squares[c / 4u][c % 4u] + f32(PIXELS) * deviation * deviation;
      }
      inverse_variance[lane] = 1.0 / (spread / f32(size * PIXELS) + EPS);
      center[lane] = mean;
      factor[lane] = sqrt(inverse_variance[lane]) * gamma[first_quad * 4u + channel];
      offset[lane] = beta[first_quad * 4u + channel];
      if (EMBEDDING == 1u) {
        let scale = 1.0 + embedding[row + channel];
        factor[lane] *= scale;
        offset[lane] = offset[lane] * scale + embedding[row + CHANNELS + channel];
      } else if (EMBEDDING == 2u) {
        center[lane] -= embedding[row + channel];
      }
    }
    maps[thread] = array<vec4f, 3>(center, factor, offset);
    coefficients[saved + thread] = center;
    coefficients[saved + quads + thread] = factor;
    coefficients[saved + 2u * quads + thread] = offset;
    coefficients[saved + 3u * quads + thread] = inverse_variance;
  }

  if (APPLY == 1u) {
    workgroupBarrier();
    for (var place = thread; place < PIXELS * count; place += THREADS) {
      let quad = place % count;
      let at = pixels_at + place / count * quads + quad;
      var z = (x[at] - maps[quad][0]) * maps[quad][1] + maps[quad][2];
      if (SILU == 1u) {
        z /= 1.0 + exp(min(-z, vec4f(80.0)));
      }
      y[at] = z;
    }
  }
}
