// GroupNorm, last step, where only the mean of each 2 x 2 block is wanted: of the result, and of x for the path beside it.
//
//   y = mean over the block of f((x - center) * factor + offset)        f(z) = z, or z * sigmoid(z) with SILU
//   x_mean = mean over the block of x
//
// A last odd row or column is dropped. x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y and x_mean [N, OUT_HEIGHT, OUT_WIDTH,
// CHANNEL_QUADS] of vec4f; coefficients [N, 4, CHANNEL_QUADS]: center, factor, offset, rstd^2. SILU is 1 or 0.
// One invocation a quad of y: id.x counts those of a row, id.y rows, id.z images.
// Host checks: OUT_HEIGHT = floor(HEIGHT / 2), the same for the width.
// Gradient: resample/take_pixels.wgsl, then backward_apply.wgsl.

override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;
override SILU: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> x_mean: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let ox = id.x / CHANNEL_QUADS;
  if (ox >= OUT_WIDTH) {
    return;
  }
  let map = id.z * 4u * CHANNEL_QUADS + quad;
  let center = coefficients[map];
  let factor = coefficients[map + CHANNEL_QUADS];
  let offset = coefficients[map + 2u * CHANNEL_QUADS];
  var sum = vec4f();
  var x_sum = vec4f();
  for (var i = 0u; i < 4u; i++) {
    let pixel = (id.z * HEIGHT + id.y * 2u + i / 2u) * WIDTH + ox * 2u + i % 2u;
    let value = x[pixel * CHANNEL_QUADS + quad];
    let z = (value - center) * factor + offset;
    sum += select(z, z / (1.0 + exp(min(-z, vec4f(80.0)))), SILU == 1u);
    x_sum += value;
  }
  let at = ((id.z * OUT_HEIGHT + id.y) * OUT_WIDTH + ox) * CHANNEL_QUADS + quad;
  y[at] = 0.25 * sum;
  x_mean[at] = 0.25 * x_sum;
}
