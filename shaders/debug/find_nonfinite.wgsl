// Looks for NaN and infinity: flags[CALL] = 1 if any of COUNT words has all exponent bits set.
//
// The values are read as integers: WGSL lets a compiler assume that there is no NaN and no infinity among floats, so a
// test of the floats themselves may be compiled away. One invocation looks at RUN words, several may write the same 1.

const RUN: u32 = 64u;

override COUNT: u32;
override CALL: u32;

@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read_write> flags: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let first = (id.x + id.y * groups.x * 64u) * RUN;
  for (var i = first; i < min(first + RUN, COUNT); i++) {
    if ((values[i] & 0x7f800000u) == 0x7f800000u) {
      flags[CALL] = 1u;
      return;
    }
  }
}
