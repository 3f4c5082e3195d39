// Takes a U-Net's output apart, and mixes the two passes of classifier-free guidance.
//
//   mean = the first CHANNELS channels, which predict eps (or x_0, or x_{t-1})
//   v    = the next CHANNELS channels, which speak of the variance                              with VARIANCE
//
//   FREE: images 0 .. N-1 of the output saw the class, images N .. 2N-1 the null class, and
//         mean = mean_null + s[n] * (mean_class - mean_null); v is that of the class.
//
// output [N or 2N, PIXELS, OUT'] with OUT' = OUT_CHANNELS padded to a multiple of 4; mean, v [N, PIXELS, ceil(CHANNELS / 4)]
// of vec4f; scale [N, 4], the first entry counts. One invocation a quad of the result.

override IMAGES: u32;
override PIXELS: u32;
override CHANNELS: u32;
override OUT_CHANNELS: u32;
override FREE: bool = false;
override VARIANCE: bool = false;

@group(0) @binding(0) var<storage, read> output: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> mean: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let channel_quads = (CHANNELS + 3u) / 4u;
  let pixel = index / channel_quads;
  if (pixel >= IMAGES * PIXELS) {
    return;
  }
  let stride = (OUT_CHANNELS + 3u) / 4u * 4u;
  let first = index % channel_quads * 4u;
  var mean_quad = vec4f();
  var v_quad = vec4f();
  for (var lane = 0u; lane < min(4u, CHANNELS - first); lane++) {
    let at = pixel * stride + first + lane;
    mean_quad[lane] = output[at];
    if (FREE) {
      let null_class = output[at + IMAGES * PIXELS * stride];
      mean_quad[lane] = null_class + scale[pixel / PIXELS].x * (mean_quad[lane] - null_class);
    }
    if (VARIANCE) {
      v_quad[lane] = output[at + CHANNELS];
    }
  }
  mean[index] = mean_quad;
  if (VARIANCE) {
    v[index] = v_quad;
  }
}
