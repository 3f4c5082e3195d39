// Attention gradient with respect to q, and the row sums that the gradient of k and v needs.
//
//   p[i, j] = exp(s[i, j] - lse[i])                          delta[i] = sum over d of d_out[i, d] * out[i, d]
//   ds[i, j] = p[i, j] * (sum over d of d_out[i, d] * v[j, d] - delta[i]) * SCALE
//   dq[i, d] = sum over j of ds[i, j] * k[j, d]
//
// Layouts as in forward.wgsl; d_qkv [N, TOKENS, HEADS, 3, HEAD_QUADS], of which this kernel writes the q third (zero for
// tokens from QUERIES on); delta [N, HEADS, QUERIES]. Scores are made again from lse, nothing of size T x T is stored.
// One invocation makes QUERY_RUN queries times QUADS quads of the head; id as in forward.wgsl, over all TOKENS.

const QUERY_RUN: u32 = 2u; // tile: queries an invocation
const KEYS: u32 = 4u; // tile: keys at a time
const QUADS: u32 = 8u; // tile: quads of the head an invocation

override IMAGES: u32;
override TOKENS: u32;
override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override SCALE: f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> out: array<vec4f>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first_query = id.x * QUERY_RUN;
  let head = id.y % HEADS;
  let image = id.y / HEADS;
  let first_quad = id.z * QUADS;
  if (first_query >= TOKENS || image >= IMAGES) {
    return;
  }
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = image * TOKENS * token + head * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS;
  let row_start = (image * HEADS + head) * QUERIES;

  var query: array<u32, QUERY_RUN>; // where q begins
  var answer: array<u32, QUERY_RUN>; // where out and d_out begin
  var row_delta: array<f32, QUERY_RUN>;
  var row_lse: array<f32, QUERY_RUN>;
  var sums: array<vec4f, QUERY_RUN * QUADS>;
  for (var i = 0u; i < QUERY_RUN; i++) {
    let row = min(first_query + i, QUERIES - 1u);
    query[i] = q_start + row * token;
    answer[i] = ((image * QUERIES + row) * HEADS + head) * HEAD_QUADS;
    row_lse[i] = lse[row_start + row];
    row_delta[i] = 0.0;
    for (var c = 0u; c < HEAD_QUADS; c++) {
      row_delta[i] += dot(d_out[answer[i] + c], out[answer[i] + c]);
    }
    for (var d = 0u; d < QUADS; d++) {
      sums[i * QUADS + d] = vec4f();
    }
  }

  if (first_query < QUERIES) {
    for (var first_key = 0u; first_key < TOKENS; first_key += KEYS) {
      var key: array<u32, KEYS>;
      var scores: array<f32, QUERY_RUN * KEYS>;
      var products: array<f32, QUERY_RUN * KEYS>; // of d_out and v
      for (var j = 0u; j < KEYS; j++) {
        key[j] = min(first_key + j, TOKENS - 1u) * token;
        for (var i = 0u; i < QUERY_RUN; i++) {
          scores[i * KEYS + j] = 0.0;
          products[i * KEYS + j] = 0.0;
        }
      }
      for (var c = 0u; c < HEAD_QUADS; c++) {
        var q: array<vec4f, QUERY_RUN>;
        var g: array<vec4f, QUERY_RUN>;
        for (var i = 0u; i < QUERY_RUN; i++) {
          q[i] = qkv[query[i] + c];
          g[i] = d_out[answer[i] + c];
        }
        for (var j = 0u; j < KEYS; j++) {
          let k = qkv[k_start + key[j] + c];
          let v = qkv[v_start + key[j] + c];
          for (var i = 0u; i < QUERY_RUN; i++) {
            scores[i * KEYS + j] += dot(q[i], k);
            products[i * KEYS + j] += dot(g[i], v);
          }
        }
      }
      for (var j = 0u; j < KEYS; j++) {
        for (var i = 0u; i < QUERY_RUN; i++) {
          let p = exp(scores[i * KEYS + j] * SCALE - row_lse[i]);
          let ds = p * (products[i * KEYS + j] - row_delta[i]) * SCALE;
          scores[i * KEYS + j] = select(0.0, ds, first_key + j < TOKENS);
        }
        for (var d = 0u; d < QUADS; d++) {
          let k = qkv[k_start + key[j] + first_quad + d];
          for (var i = 0u; i < QUERY_RUN; i++) {
            sums[i * QUADS + d] += scores[i * KEYS + j] * k;
          }
        }
      }
    }
  }

  for (var i = 0u; i < QUERY_RUN; i++) {
    if (first_query + i < TOKENS) {
      let row = q_start + (first_query + i) * token + first_quad;
      for (var d = 0u; d < QUADS; d++) {
        if (first_quad + d < HEAD_QUADS) {
          d_qkv[row + d] = select(vec4f(), sums[i * QUADS + d], first_query + i < QUERIES);
        }
      }
      if (first_quad == 0u && first_query + i < QUERIES) {
        delta[row_start + first_query + i] = row_delta[i];
      }
    }
  }
}
