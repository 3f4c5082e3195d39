// GroupNorm by spans, for CPU adapters: from x to one affine map a channel, and on small maps to the result, in one dispatch.
//
//   y = (x - center) * factor + offset, then SiLU with SILU          center, factor, offset as in coefficients.wgsl
//
// A span is the least run of quads that holds whole groups: SPAN_QUADS = lcm(4, channels of a group) / 4. One invocation
// reads all pixels of a span, so that none waits for another. Mean and squared deviations of a channel are taken from
// registers, RUN pixels at a time in two passes, and joined by Chan's formula, which for one pixel is Welford's: no
// difference of large squares ever occurs. Until its group is known they lie where the channel's center and factor will.
//
// x, y [N, PIXELS, C'/4] of vec4f; embedding [N, EMBEDDING_STRIDE] from EMBEDDING_OFFSET on: scale [C], shift [C]
// (EMBEDDING 1) or e [C] (EMBEDDING 2); gamma, beta [C]; coefficients [N, 4, C'/4]: center, factor, offset, rstd^2 (saved
// for the backward pass). C' is C padded to a multiple of 4. y is written with APPLY alone.
// EMBEDDING, SILU and APPLY (1 or 0) are sizes, not switches: one pipeline serves all, and an exponential too many in the few
// norms without SiLU takes less than another one's compilation.
// id.x is a span, id.y an image.
// Host checks: CHANNELS % GROUPS == 0, SPAN_QUADS * 4 * GROUPS % CHANNELS == 0.

const RUN: u32 = 8u; // tile: pixels held in registers

const THREADS: u32 = 4u; // SwiftShader runs four at once; smaller workgroups leave work for all cores

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

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quads = (CHANNELS + 3u) / 4u;
  let first_quad = id.x * SPAN_QUADS;
  if (first_quad >= quads) {
    return;
  }
  let image = id.y;
  let end_quad = min(first_quad + SPAN_QUADS, quads);
  let pixels_at = image * PIXELS * quads;
  let saved = image * 4u * quads;

  for (var quad = first_quad; quad < end_quad; quad++) {
    var mean = vec4f();
    var squares = vec4f();
    var pixel = 0u;
    for (; pixel + RUN <= PIXELS; pixel += RUN) {
      var values: array<vec4f, RUN>;
      var sum = vec4f();
      for (var p = 0u; p < RUN; p++) {
        values[p] = x[pixels_at + (pixel + p) * quads + quad];
        sum += values[p];
      }
      let block_mean = sum / f32(RUN);
      for (var p = 0u; p < RUN; p++) {
        let deviation = values[p] - block_mean;
        squares += deviation * deviation;
      }
      let before = f32(pixel);
      let delta = block_mean - mean;
      let share = f32(RUN) / (before + f32(RUN));
      mean += delta * share;
      squares += delta * delta * (before * share);
    }
    for (; pixel < PIXELS; pixel++) {
      let value = x[pixels_at + pixel * quads + quad];
      let delta = value - mean;
      mean += delta / f32(pixel + 1u);
      squares += delta * (value - mean);
    }
    coefficients[saved + quad] = mean;
    coefficients[saved + quads + quad] = squares;
  }

  let size = CHANNELS / GROUPS;
  let row = image * EMBEDDING_STRIDE + EMBEDDING_OFFSET;
  for (var first = first_quad * 4u; first < min(end_quad * 4u, CHANNELS); first += size) {
    var sum = 0.0;
    for (var c = first; c < first + size; c++) {
      sum += coefficients[saved + c / 4u][c % 4u];
      if (EMBEDDING == 2u) {
        sum += embedding[row + c];
      }
    }
    let mean = sum / f32(size);
    var squares = 0.0;
    for (var c = first; c < first + size; c++) {
      var deviation = coefficients[saved + c / 4u][c % 4u] - mean;
      if (EMBEDDING == 2u) {
        deviation += embedding[row + c];
      }
      squares += coefficients[saved + quads + c / 4u][c % 4u] + f32(PIXELS) * deviation * deviation;
    }
    let inverse_variance = 1.0 / (squares / f32(size * PIXELS) + EPS);
    let rstd = sqrt(inverse_variance);
    for (var c = first; c < first + size; c++) {
      var center = mean;
      var factor = rstd * gamma[c];
      var offset = beta[c];
      if (EMBEDDING == 1u) {
        let scale = 1.0 + embedding[row + c];
        factor *= scale;
        offset = offset * scale + embedding[row + CHANNELS + c];
      } else if (EMBEDDING == 2u) {
        center -= embedding[row + c];
      }
      let at = saved + c / 4u;
      coefficients[at][c % 4u] = center;
      coefficients[at + quads][c % 4u] = factor;
      coefficients[at + 2u * quads][c % 4u] = offset;
      coefficients[at + 3u * quads][c % 4u] = inverse_variance;
    }
  }
  for (var c = CHANNELS; c < end_quad * 4u; c++) { // padding, behind the last span
    for (var k = 0u; k < 4u; k++) {
      coefficients[saved + k * quads + c / 4u][c % 4u] = 0.0;
    }
  }

  if (APPLY == 1u) {
    let silu = SILU == 1u; // a uniform is loaded again wherever it is named
    for (var quad = first_quad; quad < end_quad; quad++) {
      let center = coefficients[saved + quad];
      let factor = coefficients[saved + quads + quad];
      let offset = coefficients[saved + 2u * quads + quad];
      for (var pixel = 0u; pixel < PIXELS; pixel++) {
        let place = pixels_at + pixel * quads + quad;
        let z = (x[place] - center) * factor + offset;
        y[place] = select(z, z / (1.0 + exp(min(-z, vec4f(80.0)))), silu); // a branch would take longer
      }
    }
  }
}
