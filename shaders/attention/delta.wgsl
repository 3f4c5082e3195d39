// Attention in steps, what the softmax's gradient subtracts from each row.
//
//   delta[i] = sum over d of out[i, d] * d_out[i, d]
//
// out, d_out [N, QUERIES, HEADS, HEAD_QUADS] of vec4f; delta [N, HEADS, QUERIES]. One invocation a row and head.

override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override ROWS: u32; // N * HEADS * QUERIES

@group(0) @binding(0) var<storage, read> out: array<vec4f>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * 64u;
  if (row >= ROWS) {
    return;
  }
  let query = row % QUERIES;
  let head = row / QUERIES % HEADS;
  let image = row / (QUERIES * HEADS);
  let start = ((image * QUERIES + query) * HEADS + head) * HEAD_QUADS;
  var sum = 0.0;
  for (var c = 0u; c < HEAD_QUADS; c++) {
    sum += dot(out[start + c], d_out[start + c]);
  }
  delta[row] = sum;
}
