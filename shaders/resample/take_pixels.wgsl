// Each output pixel takes one input pixel, times FACTOR, or zero where there is none: nearest-neighbour upsampling, cropping,
// padding, shifting, and gradients.
//
//   y[n, oy, ox] = FACTOR * x[n, (oy + TOP) >> SHIFT, (ox + LEFT) >> SHIFT]
//
// SHIFT 1 makes of each pixel a block of 2 x 2. With FACTOR 1/4 that is the gradient of 2 x 2 averaging, which rounds sizes
// down: a last odd row or column went into no average, has no source, and is zero. SHIFT 0 is a window into the image that
// may reach beyond it; its gradient is this kernel with -TOP and -LEFT, sizes exchanged.
// x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of y: id.x
// counts those of a row, id.y rows, id.z images.

override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;
override TOP: i32;
override LEFT: i32;
override SHIFT: u32;
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
  let iy = (i32(id.y) + TOP) >> SHIFT;
  let ix = (i32(ox) + LEFT) >> SHIFT;
  var value = vec4f();
  if (iy >= 0 && iy < i32(HEIGHT) && ix >= 0 && ix < i32(WIDTH)) {
    value = FACTOR * x[((id.z * HEIGHT + u32(iy)) * WIDTH + u32(ix)) * CHANNEL_QUADS + quad];
  }
  y[((id.z * OUT_HEIGHT + id.y) * OUT_WIDTH + ox) * CHANNEL_QUADS + quad] = value;
}
