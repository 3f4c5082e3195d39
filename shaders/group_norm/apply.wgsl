// GroupNorm, last step: the affine map of each channel, and optionally SiLU.
//
//   z = (x - center) * factor + offset        y = z, or z * sigmoid(z) with SILU
//
// x, y [N, PIXELS, CHANNEL_QUADS] of vec4f; coefficients [N, 4, CHANNEL_QUADS]: center, factor, offset, rstd^2.
// One invocation makes RUN pixels of one quad.

const RUN: u32 = 4u; // tile: pixels an invocation

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;
override SILU: bool = false;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

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
  for (var pixel = first; pixel < min(first + RUN, PIXELS); pixel++) {
    let place = (image * PIXELS + pixel) * CHANNEL_QUADS + quad;
    let z = (x[place] - center) * factor + offset;
    if (SILU) {
      y[place] = z / (1.0 + exp(min(-z, vec4f(80.0))));
    } else {
      y[place] = z;
    }
  }
}
