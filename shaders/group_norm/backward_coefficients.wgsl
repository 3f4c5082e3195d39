// GroupNorm gradient by segments, second of three: what the pixels of a channel need of their group, and the embedding's gradient.
//
// With factor, center, rstd of the forward pass, S1 and S2 summed over segments, and M values in the group:
//
//   dx = factor * g + slope * (x - center) + constant
//   slope = -rstd^2 / M * sum over the group's channels of factor * S2
//   constant = -1 / M * sum over the group's channels of factor * S1
//
// which is rstd * (w g - mean(w g) - xhat * mean(w g xhat)) with w = gamma * (1 + scale), multiplied out.
//
//   scale-shift: dscale = rstd * gamma * S2 + beta * S1, dshift = S1                    (EMBEDDING 1)
//   additive:    de = sum of dx over the channel's pixels                               (EMBEDDING 2)
//
// sums [N, SEGMENTS, 2, C'], and a third sum, of x - center, with EMBEDDING 2; coefficients [N, 4, C'], gamma, beta [C]; terms [N, 2, C']: slope, constant;
// d_embedding [N, D'] with D = 2 C (dscale, dshift) or C (de), padded, written with EMBEDDING alone.
// One invocation a channel of an image. Host checks: CHANNELS % GROUPS == 0, CHANNELS % 4 == 0 with EMBEDDING.

override IMAGES: u32;
override PIXELS: u32;
override CHANNELS: u32;
override GROUPS: u32;
override SEGMENTS: u32;
override EMBEDDING: u32 = 0u;

@group(0) @binding(0) var<storage, read> sums: array<f32>;
@group(0) @binding(1) var<storage, read> coefficients: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> terms: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_embedding: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let stride = (CHANNELS + 3u) / 4u * 4u;
  let channel = id.x % stride;
  let image = id.x / stride;
  if (image >= IMAGES) {
    return;
  }
  let target_at = image * 2u * stride + channel;
  if (channel >= CHANNELS) {
    terms[target_at] = 0.0;
    terms[target_at + stride] = 0.0;
    return;
  }
  let size = CHANNELS / GROUPS;
  let first = channel / size * size;
  let saved = image * 4u * stride;

  let sums_a_segment = select(2u, 3u, EMBEDDING == 2u);
  var own1 = 0.0; // S1 and S2 of this channel
  var own2 = 0.0;
  var group1 = 0.0; // sums of factor * S1 and factor * S2 over the group
  var group2 = 0.0;
  for (var c = first; c < first + size; c++) {
    var s1 = 0.0;
    var s2 = 0.0;
    for (var s = 0u; s < SEGMENTS; s++) {
      let at = (image * SEGMENTS + s) * sums_a_segment * stride + c;
      s1 += sums[at];
      s2 += sums[at + stride];
    }
    if (c == channel) {
      own1 = s1;
      own2 = s2;
    }
    let factor = coefficients[saved + stride + c];
    group1 += factor * s1;
    group2 += factor * s2;
  }
  let total = f32(size * PIXELS);
  let inverse_variance = coefficients[saved + 3u * stride + channel];
  let slope = -inverse_variance * group2 / total;
  let constant = -group1 / total;
  terms[target_at] = slope;
  terms[target_at + stride] = constant;

  if (EMBEDDING == 1u) {
    let at = image * 2u * stride + channel;
    d_embedding[at] = sqrt(inverse_variance) * gamma[channel] * own2 + beta[channel] * own1;
    d_embedding[at + stride] = own1;
  } else if (EMBEDDING == 2u) {
    var deviations = 0.0;
    for (var s = 0u; s < SEGMENTS; s++) {
      deviations += sums[((image * SEGMENTS + s) * 3u + 2u) * stride + channel];
    }
    let factor = coefficients[saved + stride + channel];
    d_embedding[image * stride + channel] = factor * own1 + slope * deviations + constant * f32(PIXELS);
  }
}
