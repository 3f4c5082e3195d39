// GroupNorm gradient by workgroups, for GPUs: from dy and x to what the pixels of a channel need of their group, and on small
// maps to the gradient of each pixel, in one dispatch. The embedding's gradient is not made here.
//
//   dx = factor * g + slope * (x - center) + constant + residual     g = dy * silu'(z), or dy without SILU
//
//   S1 = sum of g, S2 = sum of g * (x - center) over a channel's pixels; slope and constant from them as in
//   backward_coefficients.wgsl, silu' as in backward_apply.wgsl
//
// A workgroup reads the pixels of a span, as in workgroup.wgsl.
//
// dy, x, dx, residual [N, PIXELS, C'/4] of vec4f; coefficients [N, 4, C'/4] from the forward pass; terms [N, 2, C'/4]:
// slope, constant. dx is written with APPLY alone. C' is C padded to a multiple of 4.
// RESIDUAL, SILU and APPLY are 1 or 0.
// id.x is a span, id.y an image.
// Host checks: as in workgroup.wgsl.

const THREADS: u32 = 128u;
const MAX_SPAN: u32 = 16u;

override PIXELS: u32;
override CHANNELS: u32;
override GROUPS: u32;
override SPAN_QUADS: u32;
override RESIDUAL: u32;
override SILU: u32;
override APPLY: u32;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> terms: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;

var<workgroup> partial: array<vec4f, THREADS>;
var<workgroup> sums: array<array<vec4f, 2>, MAX_SPAN>; // factor * S1 and factor * S2 of each channel of the span
var<workgroup> slopes: array<vec4f, MAX_SPAN>;
var<workgroup> constants: array<vec4f, MAX_SPAN>;

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

// dy of a place, taken through SiLU.
fn upstream(at: u32, z: vec4f) -> vec4f {
  let g = dy[at];
  if (SILU == 1u) {
    let e = exp(min(-z, vec4f(80.0)));
    let s = 1.0 / (1.0 + e);
    return g * (s * (1.0 + z * (e * s)));
  }
  return g;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let quads = (CHANNELS + 3u) / 4u;
  let first_quad = id.x * SPAN_QUADS;
  let count = min(SPAN_QUADS, quads - first_quad);
  let pixels_at = id.y * PIXELS * quads + first_quad;
  let saved = id.y * 4u * quads + first_quad;
  let made = id.y * 2u * quads + first_quad;

  for (var quad = 0u; quad < count; quad++) {
    let center = coefficients[saved + quad];
    let factor = coefficients[saved + quads + quad];
    let offset = coefficients[saved + 2u * quads + quad];
    var s1 = vec4f();
    var s2 = vec4f();
    for (var pixel = thread; pixel < PIXELS; pixel += THREADS) {
      let at = pixels_at + pixel * quads + quad;
      let deviation = x[at] - center;
      let g = upstream(at, deviation * factor + offset);
      s1 += g;
      s2 += g * deviation;
    }
    s1 = workgroup_sum(thread, s1);
    s2 = workgroup_sum(thread, s2);
    if (thread == 0u) {
      sums[quad][0] = factor * s1;
      sums[quad][1] = factor * s2;
    }
  }
  workgroupBarrier();

  // One invocation a quad, since a store of one component may touch all four.
  let size = CHANNELS / GROUPS;
  let total = f32(size * PIXELS);
  if (thread < count) {
    let inverse_variance = coefficients[saved + 3u * quads + thread];
    var slope = vec4f();
    var constant = vec4f();
    for (var lane = 0u; lane < 4u; lane++) {
      let channel = thread * 4u + lane;
      if (first_quad * 4u + channel >= CHANNELS) {
        break;
      }
      let first = channel / size * size;
      var sum1 = 0.0;
      var sum2 = 0.0;
      for (var c = first; c < first + size; c++) {
        sum1 += sums[c / 4u][0][c % 4u];
        sum2 += sums[c / 4u][1][c % 4u];
      }
      slope[lane] = -inverse_variance[lane] * sum2 / total;
      constant[lane] = -sum1 / total;
    }
    slopes[thread] = slope;
    constants[thread] = constant;
    terms[made + thread] = slope;
    terms[made + quads + thread] = constant;
  }

  if (APPLY == 1u) {
    workgroupBarrier();
    for (var place = thread; place < PIXELS * count; place += THREADS) {
      let quad = place % count;
      let at = pixels_at + place / count * quads + quad;
      let factor = coefficients[saved + quads + quad];
      let deviation = x[at] - coefficients[saved + quad];
      let g = upstream(at, deviation * factor + coefficients[saved + 2u * quads + quad]);
      var result = factor * g + slopes[quad] * deviation + constants[quad];
      if (RESIDUAL == 1u) {
        result += residual[at];
      }
      dx[at] = result;
    }
  }
}
