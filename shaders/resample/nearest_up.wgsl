// Each pixel becomes a block of 2 x 2, times FACTOR: nearest-neighbour upsampling, and the gradient of 2 x 2 averaging.
//
//   y[n, oy, ox] = FACTOR * x[n, oy / 2, ox / 2]
//
// Where the output has an odd size, its last row or column has no source and is zero: averaging rounds sizes down, so
// those pixels went into no average. FACTOR is 1 for upsampling, 1/4 for the gradient.
// x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of y.

override IMAGES: u32;
override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;
override FACTOR: f32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let quad = index % CHANNEL_QUADS;
  let ox = index / CHANNEL_QUADS % OUT_WIDTH;
  let row = index / (CHANNEL_QUADS * OUT_WIDTH);
  let image = row / OUT_HEIGHT;
  if (image >= IMAGES) {
    return;
  }
  let iy = row % OUT_HEIGHT / 2u;
  let ix = ox / 2u;
  var value = vec4f();
  if (iy < HEIGHT && ix < WIDTH) {
    value = FACTOR * x[((image * HEIGHT + iy) * WIDTH + ix) * CHANNEL_QUADS + quad];
  }
  y[index] = value;
}
