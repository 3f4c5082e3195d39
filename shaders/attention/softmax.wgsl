// Attention in steps, the softmax over stored scores, in place and not yet divided.
//
//   lse[i] = log of the sum over j of exp(s[i, j])        s[i, j] becomes exp(s[i, j] - max), total[i] their sum
//
// scores [ROWS, KEY_QUADS] of vec4f, -1e30 where there is no key; lse, total [ROWS] with ROWS = N * HEADS * QUERIES. One
// invocation a row.

override ROWS: u32;
override KEY_QUADS: u32;
override THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * THREADS;
  if (row >= ROWS) {
    return;
  }
  var largest = vec4f(-1e30);
  for (var k = 0u; k < KEY_QUADS; k++) {
    largest = max(largest, scores[row * KEY_QUADS + k]);
  }
  let peak = max(max(largest.x, largest.y), max(largest.z, largest.w));
  var sums = vec4f();
  for (var k = 0u; k < KEY_QUADS; k++) {
    let weights = exp(scores[row * KEY_QUADS + k] - peak);
    scores[row * KEY_QUADS + k] = weights;
    sums += weights;
  }
  let sum = dot(sums, vec4f(1.0));
  total[row] = sum;
  lse[row] = peak + log(sum);
}
