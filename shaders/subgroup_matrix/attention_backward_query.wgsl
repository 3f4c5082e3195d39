// Attention gradient with respect to q, by matrices that a subgroup holds: float16 factors, float32 sums.
//
//   p[i, j] = exp(s[i, j] - lse[i])      s[i, j] = sum over d of q[i, d] * k[j, d], q times SCALE
//   ds[i, j] = p[i, j] * (sum over d of d_out[i, d] * v[j, d] - delta[i])
//   dq[i, d] = SCALE * sum over j of ds[i, j] * k[j, d]
//
// planes as in attention_forward.wgsl, d_planes [N * HEADS, 1, PLANE_ROWS, DEPTH * K] of f16: the gradient of the output times
// RAISE, since much of it may be too small for float16. lse, delta [N, HEADS, TOKENS] (shaders/attention/delta.wgsl); d_qkv
// [N, TOKENS, HEADS, 3, HEAD_QUADS] of vec4f, of which this kernel writes the q third. Scores are made again from lse.
//
// A workgroup is one subgroup and makes ROWS * M queries of a head, KEYS * N keys at a time; workgroup_id as in
// attention_forward.wgsl, and what the host checks.

enable f16;
enable chromium_experimental_subgroup_matrix;

const M: u32 = 16u; // tile: queries of a matrix
const N: u32 = 16u; // tile: keys, or channels, of a matrix
const K: u32 = 16u; // tile: terms of a product
const LANES: u32 = 32u; // tile: invocations of a subgroup
const ROWS: u32 = 2u; // tile: matrices along the queries
const KEYS: u32 = 2u; // tile: matrices along the keys at a time
const DEPTH: u32 = 4u; // tile: matrices along a head's channels
const QUERIES: u32 = ROWS * M; // of a workgroup
const SPAN: u32 = KEYS * N; // keys at a time
const WIDTH: u32 = DEPTH * K; // channels of a head
const COLUMNS: u32 = WIDTH / N;
const SHARE_PITCH: u32 = SPAN + 8u;
const LARGEST = 65504.0; // of float16

alias Left = subgroup_matrix_left<f16, K, M>;
alias Right = subgroup_matrix_right<f16, N, K>;
alias Sum = subgroup_matrix_result<f32, N, M>;

override TOKENS: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override PLANE_ROWS: u32;
override SCALE: f32;
override RAISE: f32;

@group(0) @binding(0) var<storage, read> planes: array<f16>;
@group(0) @binding(1) var<storage, read> d_planes: array<f16>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<vec4f>;

var<workgroup> scores: array<f32, QUERIES * max(2u * SPAN, WIDTH)>; // s, then the other factor of ds, at last dq
var<workgroup> shares: array<f16, QUERIES * SHARE_PITCH>; // ds
var<workgroup> row_lse: array<f32, QUERIES>;
var<workgroup> row_delta: array<f32, QUERIES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
  let first_query = group.x * QUERIES;
  let head = group.y;
  let q_plane = head * 3u * PLANE_ROWS * WIDTH;
  let k_plane = q_plane + PLANE_ROWS * WIDTH;
  let v_plane = k_plane + PLANE_ROWS * WIDTH;
  let d_plane = head * PLANE_ROWS * WIDTH;

  var q: array<Left, ROWS * DEPTH>;
  var d_out: array<Left, ROWS * DEPTH>;
  for (var r = 0u; r < ROWS; r++) {
    for (var d = 0u; d < DEPTH; d++) {
      let at = (first_query + r * M) * WIDTH + d * K;
      q[r * DEPTH + d] = subgroupMatrixLoad<Left, row_major>(&planes, q_plane + at, WIDTH);
      d_out[r * DEPTH + d] = subgroupMatrixLoad<Left, row_major>(&d_planes, d_plane + at, WIDTH);
    }
  }
  for (var row = lane; row < QUERIES; row += LANES) {
    let query = head * TOKENS + min(first_query + row, TOKENS - 1u);
    row_lse[row] = lse[query];
    row_delta[row] = RAISE * delta[query];
  }
  var sums: array<Sum, ROWS * COLUMNS>;
  for (var f = 0u; f < ROWS * COLUMNS; f++) {
    sums[f] = Sum();
  }

  for (var first_key = 0u; first_key < TOKENS; first_key += SPAN) {
    for (var key = 0u; key < KEYS; key++) {
      var s: array<Sum, ROWS>;
      var t: array<Sum, ROWS>;
      for (var r = 0u; r < ROWS; r++) {
        s[r] = Sum();
        t[r] = Sum();
      }
      for (var d = 0u; d < DEPTH; d++) {
        let at = (first_key + key * N) * WIDTH + d * K;
        let k = subgroupMatrixLoad<Right, col_major>(&planes, k_plane + at, WIDTH);
        let v = subgroupMatrixLoad<Right, col_major>(&planes, v_plane + at, WIDTH);
        for (var r = 0u; r < ROWS; r++) {
          s[r] = subgroupMatrixMultiplyAccumulate(q[r * DEPTH + d], k, s[r]);
          t[r] = subgroupMatrixMultiplyAccumulate(d_out[r * DEPTH + d], v, t[r]);
        }
      }
      for (var r = 0u; r < ROWS; r++) {
        subgroupMatrixStore<row_major>(&scores, r * M * SPAN + key * N, s[r], SPAN);
        subgroupMatrixStore<row_major>(&scores, (QUERIES + r * M) * SPAN + key * N, t[r], SPAN);
      }
    }
    workgroupBarrier();
    for (var e = lane; e < QUERIES * SPAN; e += LANES) {
      let row = e / SPAN;
      let share = exp(scores[e] - row_lse[row]) * (scores[QUERIES * SPAN + e] - row_delta[row]);
      let exists = first_key + e % SPAN < TOKENS && first_query + row < TOKENS;
      shares[row * SHARE_PITCH + e % SPAN] = f16(clamp(select(0.0, share, exists), -LARGEST, LARGEST));
    }
    workgroupBarrier();
    for (var j = 0u; j < SPAN / K; j++) {
      var ds: array<Left, ROWS>;
      for (var r = 0u; r < ROWS; r++) {
        ds[r] = subgroupMatrixLoad<Left, row_major>(&shares, r * M * SHARE_PITCH + j * K, SHARE_PITCH);
      }
      for (var c = 0u; c < COLUMNS; c++) {
        let at = k_plane + (first_key + j * K) * WIDTH + c * N;
        let k = subgroupMatrixLoad<Right, row_major>(&planes, at, WIDTH);
        for (var r = 0u; r < ROWS; r++) {
          sums[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(ds[r], k, sums[r * COLUMNS + c]);
        }
      }
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    for (var c = 0u; c < COLUMNS; c++) {
      subgroupMatrixStore<row_major>(&scores, r * M * WIDTH + c * N, sums[r * COLUMNS + c], WIDTH);
    }
  }
  workgroupBarrier();
  for (var e = lane; e < QUERIES * HEAD_QUADS; e += LANES) {
    let query = first_query + e / HEAD_QUADS;
    let d = e % HEAD_QUADS;
    if (query < TOKENS) {
      let at = e / HEAD_QUADS * WIDTH + 4u * d;
      let row = (head / HEADS * TOKENS + query) * HEADS + head % HEADS;
      let value = vec4f(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
      d_qkv[row * 3u * HEAD_QUADS + d] = value * (SCALE / RAISE);
    }
  }
}
