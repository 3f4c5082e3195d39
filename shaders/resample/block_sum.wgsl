// Each block of 2 x 2 pixels becomes their sum times FACTOR: average pooling, and the gradient of nearest upsampling.
//
//   y[n, oy, ox] = FACTOR * sum over a, b in {0, 1} of x[n, 2 oy + a, 2 ox + b]
//
// A last odd row or column of x is dropped. FACTOR is 1/4 for averaging, 1 for the gradient.
// x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of y: id.x
// counts those of a row, id.y rows, id.z images.
// Host checks: OUT_HEIGHT = floor(HEIGHT / 2), the same for the width.

override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;
override FACTOR: f32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let ox = id.x / CHANNEL_QUADS;
  if (ox >= OUT_WIDTH) {
    return;
  }
  let upper = ((id.z * HEIGHT + id.y * 2u) * WIDTH + ox * 2u) * CHANNEL_QUADS + quad;
  let lower = upper + WIDTH * CHANNEL_QUADS;
  let at = ((id.z * OUT_HEIGHT + id.y) * OUT_WIDTH + ox) * CHANNEL_QUADS + quad;
  y[at] = FACTOR * (x[upper] + x[upper + CHANNEL_QUADS] + x[lower] + x[lower + CHANNEL_QUADS]);
}
