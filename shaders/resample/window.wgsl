// A window into an image, that may reach beyond it, where it is zero: cropping, padding, shifting, and the gradient of each.
//
//   y[n, oy, ox] = x[n, oy + TOP, ox + LEFT]
//
// x [N, HEIGHT, WIDTH, CHANNEL_QUADS], y [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of y.
// The gradient is this kernel with -TOP and -LEFT, sizes exchanged.

override IMAGES: u32;
override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;
override TOP: i32;
override LEFT: i32;

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
  let iy = i32(row % OUT_HEIGHT) + TOP;
  let ix = i32(ox) + LEFT;
  var value = vec4f();
  if (iy >= 0 && iy < i32(HEIGHT) && ix >= 0 && ix < i32(WIDTH)) {
    value = x[((image * HEIGHT + u32(iy)) * WIDTH + u32(ix)) * CHANNEL_QUADS + quad];
  }
  y[index] = value;
}
