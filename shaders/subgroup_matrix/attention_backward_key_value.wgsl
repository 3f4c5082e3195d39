// Attention gradient with respect to k and v, by matrices that a subgroup holds: float16 factors, float32 sums.
//
//   dv[j, d] = sum over i of p[i, j] * d_out[i, d]
//   dk[j, d] = sum over i of ds[i, j] * q[i, d]      q times SCALE
//
// p, ds, layouts and RAISE as in attention_backward_query.wgsl; of d_qkv this kernel writes the k and v thirds. Scores are made
// again from lse, keys along the rows.
//
// A workgroup is one subgroup and makes ROWS * M keys of a head, QUERIES * N queries at a time. workgroup_id: key tiles, heads
// of all images. Host checks: those of attention_forward.wgsl, with QUERIES in the place of KEYS.

enable f16;
enable chromium_experimental_subgroup_matrix;

const M: u32 = 16u; // tile: keys of a matrix
const N: u32 = 16u; // tile: queries, or channels, of a matrix
const K: u32 = 16u; // tile: terms of a product
const LANES: u32 = 32u; // tile: invocations of a subgroup
const ROWS: u32 = 1u; // tile: matrices along the keys
const QUERIES: u32 = 2u; // tile: matrices along the queries at a time
const DEPTH: u32 = 4u; // tile: matrices along a head's channels
const KEYS: u32 = ROWS * M; // of a workgroup
const SPAN: u32 = QUERIES * N; // queries at a time
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
override RAISE: f32;

@group(0) @binding(0) var<storage, read> planes: array<f16>;
@group(0) @binding(1) var<storage, read> d_planes: array<f16>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<vec4f>;

var<workgroup> scores: array<f32, KEYS * max(2u * SPAN, WIDTH)>; // s, then the other factor of ds, at last a gradient
var<workgroup> shares: array<f16, 2u * KEYS * SHARE_PITCH>; // p, then ds

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
  let first_key = group.x * KEYS;
  let head = group.y;
  let q_plane = head * 3u * PLANE_ROWS * WIDTH;
  let k_plane = q_plane + PLANE_ROWS * WIDTH;
  let v_plane = k_plane + PLANE_ROWS * WIDTH;
  let d_plane = head * PLANE_ROWS * WIDTH;

  var k: array<Left, ROWS * DEPTH>;
  var v: array<Left, ROWS * DEPTH>;
  for (var r = 0u; r < ROWS; r++) {
    for (var d = 0u; d < DEPTH; d++) {
      let at = (first_key + r * M) * WIDTH + d * K;
      k[r * DEPTH + d] = subgroupMatrixLoad<Left, row_major>(&planes, k_plane + at, WIDTH);
      v[r * DEPTH + d] = subgroupMatrixLoad<Left, row_major>(&planes, v_plane + at, WIDTH);
    }
  }
  var dk: array<Sum, ROWS * COLUMNS>;
  var dv: array<Sum, ROWS * COLUMNS>;
  for (var f = 0u; f < ROWS * COLUMNS; f++) {
    dk[f] = Sum();
    dv[f] = Sum();
  }

  for (var first_query = 0u; first_query < TOKENS; first_query += SPAN) {
    for (var query = 0u; query < QUERIES; query++) {
      var s: array<Sum, ROWS>;
      var t: array<Sum, ROWS>;
      for (var r = 0u; r < ROWS; r++) {
        s[r] = Sum();
        t[r] = Sum();
      }
      for (var d = 0u; d < DEPTH; d++) {
        let at = (first_query + query * N) * WIDTH + d * K;
        let q = subgroupMatrixLoad<Right, col_major>(&planes, q_plane + at, WIDTH);
        let d_out = subgroupMatrixLoad<Right, col_major>(&d_planes, d_plane + at, WIDTH);
        for (var r = 0u; r < ROWS; r++) {
          s[r] = subgroupMatrixMultiplyAccumulate(k[r * DEPTH + d], q, s[r]);
          t[r] = subgroupMatrixMultiplyAccumulate(v[r * DEPTH + d], d_out, t[r]);
        }
      }
      for (var r = 0u; r < ROWS; r++) {
        subgroupMatrixStore<row_major>(&scores, r * M * SPAN + query * N, s[r], SPAN);
        subgroupMatrixStore<row_major>(&scores, (KEYS + r * M) * SPAN + query * N, t[r], SPAN);
      }
    }
    workgroupBarrier();
    for (var e = lane; e < KEYS * SPAN; e += LANES) {
      let row = e / SPAN;
      let query = first_query + e % SPAN;
      let at = head * TOKENS + min(query, TOKENS - 1u);
      let exists = query < TOKENS && first_key + row < TOKENS;
      let share = select(0.0, exp(scores[e] - lse[at]), exists);
      let rest = clamp(share * (scores[KEYS * SPAN + e] - RAISE * delta[at]), -LARGEST, LARGEST);
      shares[row * SHARE_PITCH + e % SPAN] = f16(share);
      shares[(KEYS + row) * SHARE_PITCH + e % SPAN] = f16(rest);
    }
    workgroupBarrier();
    for (var j = 0u; j < SPAN / K; j++) {
      var p: array<Left, ROWS>;
      var ds: array<Left, ROWS>;
      for (var r = 0u; r < ROWS; r++) {
        p[r] = subgroupMatrixLoad<Left, row_major>(&shares, r * M * SHARE_PITCH + j * K, SHARE_PITCH);
        ds[r] = subgroupMatrixLoad<Left, row_major>(&shares, (KEYS + r * M) * SHARE_PITCH + j * K, SHARE_PITCH);
      }
      for (var c = 0u; c < COLUMNS; c++) {
        let at = (first_query + j * K) * WIDTH + c * N;
        let q = subgroupMatrixLoad<Right, row_major>(&planes, q_plane + at, WIDTH);
        let d_out = subgroupMatrixLoad<Right, row_major>(&d_planes, d_plane + at, WIDTH);
        for (var r = 0u; r < ROWS; r++) {
          dk[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(ds[r], q, dk[r * COLUMNS + c]);
          dv[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(p[r], d_out, dv[r * COLUMNS + c]);
        }
      }
    }
  }

  for (var third = 1u; third < 3u; third++) {
    for (var r = 0u; r < ROWS; r++) {
      for (var c = 0u; c < COLUMNS; c++) {
        let at = r * M * WIDTH + c * N;
        if (third == 1u) {
          subgroupMatrixStore<row_major>(&scores, at, dk[r * COLUMNS + c], WIDTH);
        } else {
          subgroupMatrixStore<row_major>(&scores, at, dv[r * COLUMNS + c], WIDTH);
        }
      }
    }
    workgroupBarrier();
    for (var e = lane; e < KEYS * HEAD_QUADS; e += LANES) {
      let key = first_key + e / HEAD_QUADS;
      let d = e % HEAD_QUADS;
      if (key < TOKENS) {
        let at = e / HEAD_QUADS * WIDTH + 4u * d;
        let row = (head / HEADS * TOKENS + key) * HEADS + head % HEADS;
        let value = vec4f(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
        d_qkv[(row * 3u + third) * HEAD_QUADS + d] = value / RAISE;
      }
    }
    workgroupBarrier();
  }
}
