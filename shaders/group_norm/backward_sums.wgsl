// GroupNorm gradient, first of three: two sums of each channel over each segment of an image's pixels.
//
//   g = dy * silu'(z), or dy without SILU       S1 = sum of g        S2 = sum of g * (x - center)
//
// dy, x [N, PIXELS, CHANNEL_QUADS] of vec4f; coefficients [N, 4, CHANNEL_QUADS] from the forward pass, from which z is
// made again; sums [N, SEGMENTS, 2, CHANNEL_QUADS]: S1, then S2. One invocation a quad and a segment.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;
override SEGMENTS: u32;
override SEGMENT_PIXELS: u32;
override SILU: bool = false;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let quad = index % CHANNEL_QUADS;
  let segment = index / CHANNEL_QUADS % SEGMENTS;
  let image = index / (CHANNEL_QUADS * SEGMENTS);
  if (image >= IMAGES) {
    return;
  }
  let at = image * 4u * CHANNEL_QUADS + quad;
  let center = coefficients[at];
  let factor = coefficients[at + CHANNEL_QUADS];
  let offset = coefficients[at + 2u * CHANNEL_QUADS];
  let first = segment * SEGMENT_PIXELS;
  var s1 = vec4f();
  var s2 = vec4f();
  for (var pixel = first; pixel < min(first + SEGMENT_PIXELS, PIXELS); pixel++) {
    let place = (image * PIXELS + pixel) * CHANNEL_QUADS + quad;
    let deviation = x[place] - center;
    var g = dy[place];
    if (SILU) {
      let z = deviation * factor + offset;
      let sigmoid = 1.0 / (1.0 + exp(min(-z, vec4f(80.0))));
      g *= sigmoid * (1.0 + z * (1.0 - sigmoid));
    }
    s1 += g;
    s2 += g * deviation;
  }
  let target_at = (image * SEGMENTS + segment) * 2u * CHANNEL_QUADS + quad;
  sums[target_at] = s1;
  sums[target_at + CHANNEL_QUADS] = s2;
}
