// GroupNorm by segments, first of three: mean and sum of squared deviations of each channel over each segment of an image's pixels.
//
//   m = mean of x over the segment's pixels        s = sum of (x - m)^2
//
// A segment is BLOCKS blocks of RUN pixels. Within a block both sums are taken from registers in two passes; blocks are
// joined by Chan's formula, pixels behind the last whole block by Welford's, which is the same for one pixel. So no
// difference of large squares ever occurs, and no invocation waits for another.
//
// x [N, PIXELS, CHANNEL_QUADS] of vec4f; moments [N, SEGMENTS, 2, CHANNEL_QUADS]: m, then s. One invocation a quad and a segment.
// Host checks: SEGMENTS * BLOCKS * RUN >= PIXELS, no segment is empty.

const RUN: u32 = 8u; // tile: pixels held in registers

override IMAGES: u32;
override PIXELS: u32;
override CHANNEL_QUADS: u32;
override SEGMENTS: u32;
override BLOCKS: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> moments: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let quad = index % CHANNEL_QUADS;
  let segment = index / CHANNEL_QUADS % SEGMENTS;
  let image = index / (CHANNEL_QUADS * SEGMENTS);
  if (image >= IMAGES) {
    return;
  }
  let first = segment * BLOCKS * RUN;
  let end = min(first + BLOCKS * RUN, PIXELS);

  var mean = vec4f();
  var squares = vec4f();
  var pixel = first;
  for (; pixel + RUN <= end; pixel += RUN) {
    var values: array<vec4f, RUN>;
    var sum = vec4f();
    for (var p = 0u; p < RUN; p++) {
      values[p] = x[(image * PIXELS + pixel + p) * CHANNEL_QUADS + quad];
      sum += values[p];
    }
    let block_mean = sum / f32(RUN);
    for (var p = 0u; p < RUN; p++) {
      let deviation = values[p] - block_mean;
      squares += deviation * deviation;
    }
    let before = f32(pixel - first);
    let delta = block_mean - mean;
    let share = f32(RUN) / (before + f32(RUN));
    mean += delta * share;
    squares += delta * delta * (before * share);
  }
  for (; pixel < end; pixel++) {
    let value = x[(image * PIXELS + pixel) * CHANNEL_QUADS + quad];
    let delta = value - mean;
    mean += delta / f32(pixel - first + 1u);
    squares += delta * (value - mean);
  }
  let at = (image * SEGMENTS + segment) * 2u * CHANNEL_QUADS + quad;
  moments[at] = mean;
  moments[at + CHANNEL_QUADS] = squares;
}
