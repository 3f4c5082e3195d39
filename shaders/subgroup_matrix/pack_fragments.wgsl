// Packed weights in the order in which subgroups load them, once, when parameters are packed.
//
//   fragments[o / N, i / K, tap][i % K][o % N] = blocks[o / 4, tap, i / 4][i % 4][o % 4]
//
// blocks [OUT_QUADS, TAPS, IN_QUADS] of 4 x 4 float16 as pack_matrix.wgsl makes them, fragments [OUT_MATRICES,
// IN_MATRICES, TAPS] of K x N float16: a matrix lies in one piece. What has no channel becomes zero. Float16 is moved two by two, so no
// feature is needed. One invocation four output channels of an input channel.
// Host checks: N is a multiple of 4.

const N: u32 = 16u; // tile: output channels of a matrix
const K: u32 = 16u; // tile: input channels of a matrix

override OUT_QUADS: u32;
override TAPS: u32;
override IN_QUADS: u32;
override OUT_MATRICES: u32;
override IN_MATRICES: u32;

@group(0) @binding(0) var<storage, read> blocks: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> fragments: array<vec2u>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let within = index % (K * N / 4u);
  let matrix = index / (K * N / 4u);
  if (matrix >= OUT_MATRICES * TAPS * IN_MATRICES) {
    return;
  }
  let tap = matrix % TAPS;
  let input = matrix / TAPS % IN_MATRICES * K + within / (N / 4u);
  let quad = matrix / (IN_MATRICES * TAPS) * (N / 4u) + within % (N / 4u);
  var values = vec2u();
  if (quad < OUT_QUADS && input < 4u * IN_QUADS) {
    values = blocks[((quad * TAPS + tap) * IN_QUADS + input / 4u) * 4u + input % 4u];
  }
  fragments[index] = values;
}
