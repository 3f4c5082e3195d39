// GroupNorm by segments, second of three: from the moments of channels and segments to one affine map a channel.
//
//   mean, variance over the group     rstd = 1 / sqrt(variance + EPS)
//   plain        y = (x - mean) * rstd * gamma + beta
//   scale-shift  y = ((x - mean) * rstd * gamma + beta) * (1 + scale) + shift         (EMBEDDING 1: adaptive group norm)
//   additive     y = (x + e - mean) * rstd * gamma + beta, mean and variance of x + e  (EMBEDDING 2)
//
//   all of them are y = (x - center) * factor + offset
//
// Written so, and not as x * factor + offset', no digits are lost where the mean is large against the deviation. The
// added e only shifts a channel's mean, so x + e is never formed.
//
// moments [N, SEGMENTS, 2, C'], embedding [N, EMBEDDING_STRIDE] from EMBEDDING_OFFSET on: scale [C], shift [C] or e [C];
// gamma, beta [C]; coefficients [N, 4, C']: center, factor, offset, rstd^2 (saved for the backward pass). C' is C padded
// to a multiple of 4. One invocation a channel of an image.
// Host checks: CHANNELS % GROUPS == 0.

override IMAGES: u32;
override PIXELS: u32;
override CHANNELS: u32;
override GROUPS: u32;
override SEGMENTS: u32;
override SEGMENT_PIXELS: u32;
override EMBEDDING_STRIDE: u32;
override EMBEDDING_OFFSET: u32;
override EPS: f32;
override EMBEDDING: u32 = 0u;

@group(0) @binding(0) var<storage, read> moments: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> embedding: array<f32>;
@group(0) @binding(4) var<storage, read_write> coefficients: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let stride = (CHANNELS + 3u) / 4u * 4u;
  let channel = id.x % stride;
  let image = id.x / stride;
  if (image >= IMAGES) {
    return;
  }
  let target_at = image * 4u * stride + channel;
  if (channel >= CHANNELS) {
    for (var k = 0u; k < 4u; k++) {
      coefficients[target_at + k * stride] = 0.0;
    }
    return;
  }
  let size = CHANNELS / GROUPS;
  let first = channel / size * size;
  let row = image * EMBEDDING_STRIDE + EMBEDDING_OFFSET;

  var sum = 0.0;
  for (var c = first; c < first + size; c++) {
    var added = 0.0;
    if (EMBEDDING == 2u) {
      added = embedding[row + c];
    }
    for (var s = 0u; s < SEGMENTS; s++) {
      let count = f32(min(SEGMENT_PIXELS, PIXELS - s * SEGMENT_PIXELS));
      sum += count * (moments[(image * SEGMENTS + s) * 2u * stride + c] + added);
    }
  }
  let total = f32(size * PIXELS);
  let mean = sum / total;

  var squares = 0.0;
  for (var c = first; c < first + size; c++) {
    var added = 0.0;
    if (EMBEDDING == 2u) {
      added = embedding[row + c];
    }
    for (var s = 0u; s < SEGMENTS; s++) {
      let count = f32(min(SEGMENT_PIXELS, PIXELS - s * SEGMENT_PIXELS));
      let at = (image * SEGMENTS + s) * 2u * stride + c;
      let deviation = moments[at] + added - mean;
      squares += moments[at + stride] + count * deviation * deviation;
    }
  }
  let inverse_variance = 1.0 / (squares / total + EPS);
  let rstd = sqrt(inverse_variance);

  var center = mean;
  var factor = rstd * gamma[channel];
  var offset = beta[channel];
  if (EMBEDDING == 1u) {
    let scale = 1.0 + embedding[row + channel];
    factor *= scale;
    offset = offset * scale + embedding[row + CHANNELS + channel];
  } else if (EMBEDDING == 2u) {
    center -= embedding[row + channel];
  }
  coefficients[target_at] = center;
  coefficients[target_at + stride] = factor;
  coefficients[target_at + 2u * stride] = offset;
  coefficients[target_at + 3u * stride] = inverse_variance;
}
