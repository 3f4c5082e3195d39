// Attention pooling, the sequence: the mean of all pixels first, then the pixels, each with its positional embedding.
//
//   tokens[n, 0] = mean over pixels of x[n] + position[0]        tokens[n, 1 + i] = x[n, i] + position[1 + i]
//
// x [N, PIXELS, CHANNEL_QUADS], tokens [N, 1 + PIXELS, CHANNEL_QUADS], position [1 + PIXELS, CHANNEL_QUADS] of vec4f.
// One invocation a quad of a token. Gradient: tokens_backward.wgsl.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> position: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> tokens: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let token = id.x / CHANNEL_QUADS % (PIXELS + 1u);
  let image = id.x / (CHANNEL_QUADS * (PIXELS + 1u));
  if (image >= IMAGES) {
    return;
  }
  var value = vec4f();
  if (token == 0u) {
    for (var pixel = 0u; pixel < PIXELS; pixel++) {
      value += x[(image * PIXELS + pixel) * CHANNEL_QUADS + quad];
    }
    value /= f32(PIXELS);
  } else {
    value = x[(image * PIXELS + token - 1u) * CHANNEL_QUADS + quad];
  }
  tokens[id.x] = value + position[token * CHANNEL_QUADS + quad];
}
