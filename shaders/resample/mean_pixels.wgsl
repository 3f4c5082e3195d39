// Mean over all pixels of an image: y[n] = 1 / PIXELS * sum over i of x[n, i].
//
// x [N, PIXELS, CHANNEL_QUADS], y [N, CHANNEL_QUADS] of vec4f. One invocation a quad. Gradient: mean_pixels_backward.wgsl.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let image = id.x / CHANNEL_QUADS;
  let quad = id.x % CHANNEL_QUADS;
  if (image >= IMAGES) {
    return;
  }
  var sum = vec4f();
  for (var pixel = 0u; pixel < PIXELS; pixel++) {
    sum += x[(image * PIXELS + pixel) * CHANNEL_QUADS + quad];
  }
  y[id.x] = sum / f32(PIXELS);
}
