// GroupNorm, first of three: mean and sum of squared deviations of each channel over each segment of an image's pixels.
//
//   m = mean of x over the segment's pixels        s = sum of (x - m)^2
//
// A segment is BLOCKS blocks of RUN pixels. Within a block both sums are taken from registers in two passes; blocks are
// joined by Chan's formula. So no difference of large squares ever occurs, and no invocation waits for another.
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
  for (var start = first; start < end; start += RUN) {
    let count = f32(min(RUN, end - start));
    var values: array<vec4f, RUN>;
    var sum = vec4f();
    for (var p = 0u; p < RUN; p++) {
      values[p] = x[(image * PIXELS + min(start + p, end - 1u)) * CHANNEL_QUADS + quad];
      sum += select(vec4f(), values[p], start + p < end);
    }
    let block_mean = sum / count;
    var block_squares = vec4f();
    for (var p = 0u; p < RUN; p++) {
      let deviation = values[p] - block_mean;
      block_squares += select(vec4f(), deviation * deviation, start + p < end);
    }
    let before = f32(start - first);
    let delta = block_mean - mean;
    mean += delta * (count / (before + count));
    squares += block_squares + delta * delta * (before * count / (before + count));
  }
  let at = (image * SEGMENTS + segment) * 2u * CHANNEL_QUADS + quad;
  moments[at] = mean;
  moments[at + CHANNEL_QUADS] = squares;
}
