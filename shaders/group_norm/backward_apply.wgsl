// GroupNorm gradient, last step: the gradient of each pixel.
//
//   dx = factor * g + slope * (x - center) + constant + residual        g = dy * silu'(z), or dy without SILU
//
//   silu'(z) = s * (1 + z * (1 - s)),   s = 1 / (1 + e),   1 - s = e * s,   e = exp(-z)
//
// dy, x, dx, residual [N, PIXELS, CHANNEL_QUADS] of vec4f; coefficients [N, 4, CHANNEL_QUADS] from the forward pass;
// terms [N, 2, CHANNEL_QUADS]: slope, constant. One invocation makes RUN pixels of one quad.
// With STORED dx holds g beforehand, and dy is not read: where an exponential costs more than a store.
// RESIDUAL is 1 or 0.

const RUN: u32 = 4u; // tile: pixels an invocation

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;
override RESIDUAL: u32;
override SILU: bool = false;
override STORED: bool = false;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(3) var<storage, read> terms: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let runs = (PIXELS + RUN - 1u) / RUN;
  let quad = index % CHANNEL_QUADS;
  let first = index / CHANNEL_QUADS % runs * RUN;
  let image = index / (CHANNEL_QUADS * runs);
  if (image >= IMAGES) {
    return;
  }
  let at = image * 4u * CHANNEL_QUADS + quad;
  let center = coefficients[at];
  let factor = coefficients[at + CHANNEL_QUADS];
  let offset = coefficients[at + 2u * CHANNEL_QUADS];
  let slope = terms[image * 2u * CHANNEL_QUADS + quad];
  let constant = terms[(image * 2u + 1u) * CHANNEL_QUADS + quad];
  for (var pixel = first; pixel < min(first + RUN, PIXELS); pixel++) {
    let place = (image * PIXELS + pixel) * CHANNEL_QUADS + quad;
    let deviation = x[place] - center;
    var g: vec4f;
    if (STORED) {
      g = dx[place];
    } else {
      g = dy[place];
      if (SILU) {
        let z = deviation * factor + offset;
        let e = exp(min(-z, vec4f(80.0)));
        let s = 1.0 / (1.0 + e);
        g *= s * (1.0 + z * (e * s));
      }
    }
    var result = factor * g + slope * deviation + constant;
    if (RESIDUAL == 1u) {
      result += residual[place];
    }
    dx[place] = result;
  }
}
