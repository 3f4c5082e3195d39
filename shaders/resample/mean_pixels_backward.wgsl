// Gradient of the mean over all pixels: dx[n, i] = dy[n] / PIXELS.
//
// dy [N, CHANNEL_QUADS], dx [N, PIXELS, CHANNEL_QUADS] of vec4f. One invocation a quad of a pixel.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let image = index / (CHANNEL_QUADS * PIXELS);
  if (image < IMAGES) {
    dx[index] = dy[image * CHANNEL_QUADS + index % CHANNEL_QUADS] / f32(PIXELS);
  }
}
