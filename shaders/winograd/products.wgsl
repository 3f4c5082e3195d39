// Winograd, second of three steps: a matrix product for each point of the transform.
//
//   m[k, t, o] = sum over i of u[k, o, i] * v[k, t, i]     k: points, t: tiles
//
// v [points, TILES, IN_QUADS] and m [points, TILES, OUT_QUADS] of vec4f; weights [OUT_QUADS, points, IN_QUADS] of mat4x4f,
// as kernels.wgsl makes them.
//
// One invocation makes RUN tiles times QUADS channel quads of one point in registers, without a barrier. id.x counts these
// blocks, those of the same channels next to each other; id.y is the point.
// Host checks: the grid's y is the number of points.

const RUN: u32 = 4u; // tile: tiles an invocation
const QUADS: u32 = 2u; // tile: output channel quads an invocation

override TILES: u32;
override IN_QUADS: u32;
override OUT_QUADS: u32;

@group(0) @binding(0) var<storage, read> v: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let runs = (TILES + RUN - 1u) / RUN;
  let first_tile = id.x % runs * RUN;
  let first_quad = id.x / runs * QUADS;
  let point = id.y;
  if (first_quad >= OUT_QUADS) {
    return;
  }

  var source: array<u32, RUN>; // where each tile begins; a tile too many repeats the last
  for (var r = 0u; r < RUN; r++) {
    source[r] = (point * TILES + min(first_tile + r, TILES - 1u)) * IN_QUADS;
  }
  var kernel: array<u32, QUADS>;
  var sums: array<vec4f, RUN * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    kernel[q] = (min(first_quad + q, OUT_QUADS - 1u) * groups.y + point) * IN_QUADS;
    for (var r = 0u; r < RUN; r++) {
      sums[q * RUN + r] = vec4f();
    }
  }

  for (var c = 0u; c < IN_QUADS; c++) {
    var line: array<vec4f, RUN>;
    for (var r = 0u; r < RUN; r++) {
      line[r] = v[source[r] + c];
    }
    for (var q = 0u; q < QUADS; q++) {
      let w = weights[kernel[q] + c];
      for (var r = 0u; r < RUN; r++) {
        sums[q * RUN + r] += w * line[r];
      }
    }
  }

  for (var q = 0u; q < QUADS; q += 1u) {
    for (var r = 0u; r < RUN; r++) {
      // A tile or quad too many has the sums of the last one, and stores them there again.
      let t = min(first_tile + r, TILES - 1u);
      m[(point * TILES + t) * OUT_QUADS + min(first_quad + q, OUT_QUADS - 1u)] = sums[q * RUN + r];
    }
  }
}
