// Bilinear interpolation with half-pixel centres (align_corners false), to any size.
//
//   s = max((o + 1/2) * size_in / size_out - 1/2, 0)        i0 = floor(s), i1 = min(i0 + 1, size_in - 1), f = s - i0
//   y[o] = (1 - f) * x[i0] + f * x[i1]                      in both directions
//
// x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of y: id.x
// counts those of a row, id.y rows, id.z images.
// Gradient: bilinear_backward.wgsl.

override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let ox = id.x / CHANNEL_QUADS;
  if (ox >= OUT_WIDTH) {
    return;
  }
  let sy = max((f32(id.y) + 0.5) * (f32(HEIGHT) / f32(OUT_HEIGHT)) - 0.5, 0.0);
  let sx = max((f32(ox) + 0.5) * (f32(WIDTH) / f32(OUT_WIDTH)) - 0.5, 0.0);
  let y0 = min(u32(sy), HEIGHT - 1u);
  let x0 = min(u32(sx), WIDTH - 1u);
  let y1 = min(y0 + 1u, HEIGHT - 1u);
  let x1 = min(x0 + 1u, WIDTH - 1u);
  let fy = sy - f32(y0);
  let fx = sx - f32(x0);
  let upper = (id.z * HEIGHT + y0) * WIDTH;
  let lower = (id.z * HEIGHT + y1) * WIDTH;
  let top = (1.0 - fx) * x[(upper + x0) * CHANNEL_QUADS + quad] + fx * x[(upper + x1) * CHANNEL_QUADS + quad];
  let bottom = (1.0 - fx) * x[(lower + x0) * CHANNEL_QUADS + quad] + fx * x[(lower + x1) * CHANNEL_QUADS + quad];
  y[((id.z * OUT_HEIGHT + id.y) * OUT_WIDTH + ox) * CHANNEL_QUADS + quad] = (1.0 - fy) * top + fy * bottom;
}
