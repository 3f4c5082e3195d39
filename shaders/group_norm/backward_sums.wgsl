// GroupNorm gradient by segments, first of three: two sums of each channel over each segment of an image's pixels.
//
//   g = dy * silu'(z), or dy without SILU       S1 = sum of g        S2 = sum of g * (x - center)
//
// dy, x [N, PIXELS, CHANNEL_QUADS] of vec4f; coefficients [N, 4, CHANNEL_QUADS] from the forward pass, from which z is
// made again; sums [N, SEGMENTS, 2, CHANNEL_QUADS]: S1, then S2; with DEVIATIONS [N, SEGMENTS, 3, CHANNEL_QUADS], the third
// the sum of x - center; with STORE also g, to where dx will be. One invocation a quad and a segment; silu' as in backward_apply.wgsl.

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;
override SEGMENTS: u32;
override SEGMENT_PIXELS: u32;
override SILU: bool = false;
override DEVIATIONS: bool = false;
override STORE: bool = false;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> coefficients: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let quad = index % CHANNEL_QUADS;
  let segment = index / CHANNEL_QUADS % SEGMENTS;
  let image = index / (CHANNEL_QUADS * SEGMENTS);
  if (image >= IMAGES) {
    return;
  }
  let saved = image * 4u * CHANNEL_QUADS + quad;
  let center = coefficients[saved];
  let factor = coefficients[saved + CHANNEL_QUADS];
  let offset = coefficients[saved + 2u * CHANNEL_QUADS];
  let first = segment * SEGMENT_PIXELS;
  let end = min(first + SEGMENT_PIXELS, PIXELS);
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  for (var pixel = first; pixel < end; pixel++) {
    let at = (image * PIXELS + pixel) * CHANNEL_QUADS + quad;
    let deviation = x[at] - center;
    var g = dy[at];
    if (SILU) {
      let z = deviation * factor + offset;
      let e = exp(min(-z, vec4f(80.0)));
      let s = 1.0 / (1.0 + e);
      g *= s * (1.0 + z * (e * s));
    }
    if (STORE) {
      dx[at] = g;
    }
    s1 += g;
    s2 += g * deviation;
    if (DEVIATIONS) {
      s3 += deviation;
    }
  }
  let sums_a_segment = select(2u, 3u, DEVIATIONS);
  let target_at = (image * SEGMENTS + segment) * sums_a_segment * CHANNEL_QUADS + quad;
  sums[target_at] = s1;
  sums[target_at + CHANNEL_QUADS] = s2;
  if (DEVIATIONS) {
    sums[target_at + 2u * CHANNEL_QUADS] = s3;
  }
}
