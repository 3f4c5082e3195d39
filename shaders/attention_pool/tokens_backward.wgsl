// Attention pooling, gradient of the sequence with respect to the pixels.
//
//   dx[n, i] = d_tokens[n, 1 + i] + d_tokens[n, 0] / PIXELS
//
// d_tokens [N, 1 + PIXELS, CHANNEL_QUADS], dx [N, PIXELS, CHANNEL_QUADS] of vec4f. One invocation a quad of a pixel.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> d_tokens: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let pixel = id.x / CHANNEL_QUADS % PIXELS;
  let image = id.x / (CHANNEL_QUADS * PIXELS);
  if (image >= IMAGES) {
    return;
  }
  let first = image * (PIXELS + 1u) * CHANNEL_QUADS + quad;
  dx[id.x] = d_tokens[first + (pixel + 1u) * CHANNEL_QUADS] + d_tokens[first] / f32(PIXELS);
}
