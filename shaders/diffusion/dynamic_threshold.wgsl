// Dynamic thresholding (Saharia et al. 2022, section 2.3): a picture's own range instead of [-1, 1].
//
//   s = max(1, the quantile of |x| over the picture)        y = clamp(x, -s, s) / s
//
// The quantile lies between two order statistics, linearly interpolated. They are found without sorting: |x| as an
// integer orders as the number does, so four passes over histograms of eight bits each find the k-th smallest.
//
// x, y [N, PIXELS, CHANNEL_QUADS] of vec4f, CHANNELS real channels. One workgroup an image.
// Host checks: PIXELS * CHANNELS < 2^24.

override PIXELS: u32;
override CHANNELS: u32;

struct Threshold {
  quantile: f32,
}

@group(0) @binding(0) var<uniform> threshold: Threshold;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> prefix: u32; // the bits of the k-th smallest found so far
var<workgroup> rank: u32; // its rank among those with that prefix
var<workgroup> following: atomic<u32>; // the smallest above it

// The padding counts as nothing, not as zero.
fn magnitude(value: vec4f, first_channel: u32, lane: u32) -> u32 {
  return select(0xffffffffu, bitcast<u32>(abs(value[lane])), first_channel + lane < CHANNELS);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let channel_quads = (CHANNELS + 3u) / 4u;
  let count = PIXELS * channel_quads;
  let first = group.x * count;
  let position = threshold.quantile * f32(PIXELS * CHANNELS - 1u);
  let wanted = u32(position);

  if (thread == 0u) {
    prefix = 0u;
    rank = wanted;
    atomicStore(&following, 0xffffffffu);
  }
  for (var pass_ = 0u; pass_ < 4u; pass_++) {
    let shift = 24u - 8u * pass_;
    atomicStore(&histogram[thread], 0u);
    workgroupBarrier();
    let known = workgroupUniformLoad(&prefix);
    for (var i = thread; i < count; i += 256u) {
      let value = x[first + i];
      for (var lane = 0u; lane < 4u; lane++) {
        let bits = magnitude(value, i % channel_quads * 4u, lane);
        let matches = pass_ == 0u || (bits >> (shift + 8u)) == (known >> (shift + 8u));
        if (bits != 0xffffffffu && matches) {
          atomicAdd(&histogram[(bits >> shift) & 255u], 1u);
        }
      }
    }
    workgroupBarrier();
    if (thread == 0u) {
      var left = rank;
      var bin = 0u;
      while (bin < 255u && left >= atomicLoad(&histogram[bin])) {
        left -= atomicLoad(&histogram[bin]);
        bin++;
      }
      rank = left;
      prefix = known | (bin << shift);
      if (pass_ == 3u && left + 1u < atomicLoad(&histogram[bin])) {
        atomicStore(&following, prefix); // the next one is equal
      }
    }
    workgroupBarrier();
  }
  let lower_bits = workgroupUniformLoad(&prefix);
  for (var i = thread; i < count; i += 256u) {
    let value = x[first + i];
    for (var lane = 0u; lane < 4u; lane++) {
      let bits = magnitude(value, i % channel_quads * 4u, lane);
      if (bits > lower_bits) {
        atomicMin(&following, bits);
      }
    }
  }
  workgroupBarrier();
  let upper_bits = atomicLoad(&following);
  let lower = bitcast<f32>(lower_bits);
  let upper = select(bitcast<f32>(upper_bits), lower, upper_bits == 0xffffffffu);
  let s = max(1.0, lower + (position - f32(wanted)) * (upper - lower));
  for (var i = thread; i < count; i += 256u) {
    y[first + i] = clamp(x[first + i], vec4f(-s), vec4f(s)) / s;
  }
}
