// Attention of each head, softmax(q k^T) v, by matrices that a subgroup holds: float16 factors, float32 sums.
//
//   s[i, j] = sum over d of q[i, d] * k[j, d]      lse[i] = log of the sum over j of exp(s[i, j])
//   out[i, d] = sum over j of exp(s[i, j] - lse[i]) * v[j, d]
//
// planes [N * HEADS, 3, PLANE_ROWS, DEPTH * K] of f16: q (times 1 / sqrt(width)), k and v as attention_halves.wgsl makes them.
// out [N, TOKENS, HEADS, HEAD_QUADS] of vec4f; lse [N, HEADS, TOKENS].
//
// A workgroup is one subgroup and makes ROWS * M queries of a head, KEYS * N keys at a time. Sums are held in a way of the
// device's own, so that no row of them can be scaled by itself. So there are two passes over the keys: the first finds lse, the
// second makes the scores again and multiplies exp(s - lse), which needs no scaling any more, with v. Scores go through
// workgroup memory, from where every lane can take them. A result's relative error is about 1e-3.
// workgroup_id: query tiles, heads of all images. Saved for the backward pass: qkv, out and lse.
// Host checks: PLANE_ROWS is a multiple of ROWS * M and of KEYS * N; K * DEPTH and KEYS * N are multiples of N and K.

enable f16;
enable chromium_experimental_subgroup_matrix;

const M: u32 = 16u; // tile: queries of a matrix
const N: u32 = 16u; // tile: keys, or channels, of a matrix
const K: u32 = 16u; // tile: terms of a product
const LANES: u32 = 32u; // tile: invocations of a subgroup
const ROWS: u32 = 2u; // tile: matrices along the queries
const KEYS: u32 = 4u; // tile: matrices along the keys at a time
const DEPTH: u32 = 4u; // tile: matrices along a head's channels
const QUERIES: u32 = ROWS * M; // of a workgroup
const SPAN: u32 = KEYS * N; // keys at a time
const WIDTH: u32 = DEPTH * K; // channels of a head
const COLUMNS: u32 = WIDTH / N;
const PITCH: u32 = SPAN + 1u; // so that the lanes, each at a row of its own, fall into different banks
const SHARE_PITCH: u32 = SPAN + 8u;
const OUT_PITCH: u32 = WIDTH + 1u;

alias Left = subgroup_matrix_left<f16, K, M>;
alias Right = subgroup_matrix_right<f16, N, K>;
alias Sum = subgroup_matrix_result<f32, N, M>;

override TOKENS: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override PLANE_ROWS: u32;

@group(0) @binding(0) var<storage, read> planes: array<f16>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;

var<workgroup> scores: array<f32, QUERIES * max(PITCH, OUT_PITCH)>; // [query, key], and at last [query, channel]
var<workgroup> shares: array<f16, QUERIES * SHARE_PITCH>; // exp(s - lse)
var<workgroup> largest: array<f32, QUERIES>;
var<workgroup> total: array<f32, QUERIES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
  let first_query = group.x * QUERIES;
  let head = group.y;
  let q_plane = head * 3u * PLANE_ROWS * WIDTH;
  let k_plane = q_plane + PLANE_ROWS * WIDTH;
  let v_plane = k_plane + PLANE_ROWS * WIDTH;

  var q: array<Left, ROWS * DEPTH>;
  for (var r = 0u; r < ROWS; r++) {
    for (var d = 0u; d < DEPTH; d++) {
      let at = q_plane + (first_query + r * M) * WIDTH + d * K;
      q[r * DEPTH + d] = subgroupMatrixLoad<Left, row_major>(&planes, at, WIDTH);
    }
  }
  for (var row = lane; row < QUERIES; row += LANES) {
    largest[row] = -1e30;
    total[row] = 0.0;
  }
  var sums: array<Sum, ROWS * COLUMNS>;
  for (var f = 0u; f < ROWS * COLUMNS; f++) {
    sums[f] = Sum();
  }

  let spans = (TOKENS + SPAN - 1u) / SPAN;
  for (var step = 0u; step < 2u * spans; step++) {
    let first_key = step % spans * SPAN;
    for (var key = 0u; key < KEYS; key++) {
      var s: array<Sum, ROWS>;
      for (var r = 0u; r < ROWS; r++) {
        s[r] = Sum();
      }
      for (var d = 0u; d < DEPTH; d++) {
        let at = k_plane + (first_key + key * N) * WIDTH + d * K;
        let k = subgroupMatrixLoad<Right, col_major>(&planes, at, WIDTH);
        for (var r = 0u; r < ROWS; r++) {
          s[r] = subgroupMatrixMultiplyAccumulate(q[r * DEPTH + d], k, s[r]);
        }
      }
      for (var r = 0u; r < ROWS; r++) {
        subgroupMatrixStore<row_major>(&scores, r * M * PITCH + key * N, s[r], PITCH);
      }
    }
    workgroupBarrier();
    let count = min(SPAN, TOKENS - first_key);
    if (step < spans) {
      for (var row = lane; row < QUERIES; row += LANES) {
        var peak = largest[row];
        for (var j = 0u; j < count; j++) {
          peak = max(peak, scores[row * PITCH + j]);
        }
        var sum = total[row] * exp(largest[row] - peak);
        for (var j = 0u; j < count; j++) {
          sum += exp(scores[row * PITCH + j] - peak);
        }
        largest[row] = peak;
        total[row] = sum;
        if (step + 1u == spans) {
          largest[row] = peak + log(sum);
        }
      }
      workgroupBarrier();
    } else {
      for (var e = lane; e < QUERIES * SPAN; e += LANES) {
        let row = e / SPAN;
        let j = e % SPAN;
        let share = select(0.0, exp(scores[row * PITCH + j] - largest[row]), j < count);
        shares[row * SHARE_PITCH + j] = f16(share);
      }
      workgroupBarrier();
      for (var j = 0u; j < SPAN / K; j++) {
        var p: array<Left, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
          p[r] = subgroupMatrixLoad<Left, row_major>(&shares, r * M * SHARE_PITCH + j * K, SHARE_PITCH);
        }
        for (var c = 0u; c < COLUMNS; c++) {
          let at = v_plane + (first_key + j * K) * WIDTH + c * N;
          let v = subgroupMatrixLoad<Right, row_major>(&planes, at, WIDTH);
          for (var r = 0u; r < ROWS; r++) {
            sums[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(p[r], v, sums[r * COLUMNS + c]);
          }
        }
      }
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    for (var c = 0u; c < COLUMNS; c++) {
      let at = r * M * OUT_PITCH + c * N;
      subgroupMatrixStore<row_major>(&scores, at, sums[r * COLUMNS + c], OUT_PITCH);
    }
  }
  workgroupBarrier();
  for (var e = lane; e < QUERIES * HEAD_QUADS; e += LANES) {
    let query = first_query + e / HEAD_QUADS;
    let d = e % HEAD_QUADS;
    if (query < TOKENS) {
      let at = e / HEAD_QUADS * OUT_PITCH + 4u * d;
      let row = (head / HEADS * TOKENS + query) * HEADS + head % HEADS;
      out[row * HEAD_QUADS + d] = vec4f(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
    }
  }
  for (var row = lane; row < QUERIES; row += LANES) {
    if (first_query + row < TOKENS) {
      lse[head * TOKENS + first_query + row] = largest[row];
    }
  }
}
