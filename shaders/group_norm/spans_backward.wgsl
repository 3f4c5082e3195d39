// GroupNorm gradient by spans, for CPU adapters: from dy and x to what the pixels of a channel need of their group, and on
// small maps to the gradient of each pixel, in one dispatch. The embedding's gradient is not made here.
//
//   dx = factor * g + slope * (x - center) + constant + residual     g = dy * silu'(z), or dy without SILU
//
//   S1 = sum of g, S2 = sum of g * (x - center) over a channel's pixels; slope and constant from them as in
//   backward_coefficients.wgsl, silu' as in backward_apply.wgsl
//
// A span is the least run of quads that holds whole groups, as in spans.wgsl; one invocation reads all pixels of one. Until
// its group is known, S2 and S1 lie where the channel's slope and constant will, and g where dx will, so that no exponential
// is taken twice.
//
// dy, x, dx, residual [N, PIXELS, C'/4] of vec4f; coefficients [N, 4, C'/4] from the forward pass; terms [N, 2, C'/4]:
// slope, constant. Without APPLY dx holds g: backward_apply.wgsl ends it. C' is C padded to a multiple of 4.
// RESIDUAL, SILU and APPLY are 1 or 0.
// id.x is a span, id.y an image.
// Host checks: as in spans.wgsl.

const THREADS: u32 = 4u; // SwiftShader runs four at once; smaller workgroups leave work for all cores

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
  let made = image * 2u * quads;

  let silu = SILU == 1u; // a uniform is loaded again wherever it is named
  for (var quad = first_quad; quad < end_quad; quad++) {
    let center = coefficients[saved + quad];
    let factor = coefficients[saved + quads + quad];
    let offset = coefficients[saved + 2u * quads + quad];
    var s1 = vec4f();
    var s2 = vec4f();
    for (var pixel = 0u; pixel < PIXELS; pixel++) {
      let place = pixels_at + pixel * quads + quad;
      let deviation = x[place] - center;
      let z = deviation * factor + offset;
      let e = exp(min(-z, vec4f(80.0)));
      let s = 1.0 / (1.0 + e);
      let g = dy[place] * select(vec4f(1.0), s * (1.0 + z * (e * s)), silu);
      dx[place] = g;
      s1 += g;
      s2 += g * deviation;
    }
    terms[made + quad] = s2;
    terms[made + quads + quad] = s1;
  }

  let size = CHANNELS / GROUPS;
  let total = f32(size * PIXELS);
  for (var first = first_quad * 4u; first < min(end_quad * 4u, CHANNELS); first += size) {
    var sum1 = 0.0; // sums of factor * S1 and factor * S2 over the group
    var sum2 = 0.0;
    for (var c = first; c < first + size; c++) {
      let factor = coefficients[saved + quads + c / 4u][c % 4u];
      sum2 += factor * terms[made + c / 4u][c % 4u];
      sum1 += factor * terms[made + quads + c / 4u][c % 4u];
    }
    let inverse_variance = coefficients[saved + 3u * quads + first / 4u][first % 4u];
    for (var c = first; c < first + size; c++) {
      terms[made + c / 4u][c % 4u] = -inverse_variance * sum2 / total;
      terms[made + quads + c / 4u][c % 4u] = -sum1 / total;
    }
  }
  for (var c = CHANNELS; c < end_quad * 4u; c++) { // padding, behind the last span
    terms[made + c / 4u][c % 4u] = 0.0;
    terms[made + quads + c / 4u][c % 4u] = 0.0;
  }

  if (APPLY == 1u) {
    for (var quad = first_quad; quad < end_quad; quad++) {
      let center = coefficients[saved + quad];
      let factor = coefficients[saved + quads + quad];
      let slope = terms[made + quad];
      let constant = terms[made + quads + quad];
      for (var pixel = 0u; pixel < PIXELS; pixel++) {
        let place = pixels_at + pixel * quads + quad;
        let deviation = x[place] - center;
        var result = factor * dx[place] + slope * deviation + constant;
        if (RESIDUAL == 1u) {
          result += residual[place];
        }
        dx[place] = result;
      }
    }
  }
}
