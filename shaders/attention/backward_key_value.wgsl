// Attention gradient with respect to k and v.
//
//   p[i, j] = exp(s[i, j] - lse[i])       ds[i, j] = p[i, j] * (sum over d of d_out[i, d] * v[j, d] - delta[i]) * SCALE
//   dk[j, d] = sum over i of ds[i, j] * q[i, d]              dv[j, d] = sum over i of p[i, j] * d_out[i, d]
//
// Layouts as in forward.wgsl and backward_query.wgsl, which made delta; this kernel writes the k and v thirds of d_qkv.
// One invocation makes KEY_RUN keys times QUADS quads of the head: id.x counts key tiles, id.y heads of all images, id.z
// parts of the head.

const KEY_RUN: u32 = 2u; // tile: keys an invocation
const QUERY_TILE: u32 = 4u; // tile: queries at a time
const QUADS: u32 = 8u; // tile: quads of the head an invocation

override IMAGES: u32;
override TOKENS: u32;
override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override SCALE: f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first_key = id.x * KEY_RUN;
  let head = id.y % HEADS;
  let image = id.y / HEADS;
  let first_quad = id.z * QUADS;
  if (first_key >= TOKENS || image >= IMAGES) {
    return;
  }
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = image * TOKENS * token + head * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS;
  let row_start = (image * HEADS + head) * QUERIES;

  var key: array<u32, KEY_RUN>;
  var dk: array<vec4f, KEY_RUN * QUADS>;
  var dv: array<vec4f, KEY_RUN * QUADS>;
  for (var j = 0u; j < KEY_RUN; j++) {
    key[j] = min(first_key + j, TOKENS - 1u) * token;
    for (var d = 0u; d < QUADS; d++) {
      dk[j * QUADS + d] = vec4f();
      dv[j * QUADS + d] = vec4f();
    }
  }

  for (var first_query = 0u; first_query < QUERIES; first_query += QUERY_TILE) {
    var query: array<u32, QUERY_TILE>;
    var answer: array<u32, QUERY_TILE>;
    var scores: array<f32, QUERY_TILE * KEY_RUN>;
    var products: array<f32, QUERY_TILE * KEY_RUN>;
    for (var i = 0u; i < QUERY_TILE; i++) {
      let row = min(first_query + i, QUERIES - 1u);
      query[i] = q_start + row * token;
      answer[i] = ((image * QUERIES + row) * HEADS + head) * HEAD_QUADS;
      for (var j = 0u; j < KEY_RUN; j++) {
        scores[i * KEY_RUN + j] = 0.0;
        products[i * KEY_RUN + j] = 0.0;
      }
    }
    for (var c = 0u; c < HEAD_QUADS; c++) {
      var k: array<vec4f, KEY_RUN>;
      var v: array<vec4f, KEY_RUN>;
      for (var j = 0u; j < KEY_RUN; j++) {
        k[j] = qkv[k_start + key[j] + c];
        v[j] = qkv[v_start + key[j] + c];
      }
      for (var i = 0u; i < QUERY_TILE; i++) {
        let q = qkv[query[i] + c];
        let g = d_out[answer[i] + c];
        for (var j = 0u; j < KEY_RUN; j++) {
          scores[i * KEY_RUN + j] += dot(q, k[j]);
          products[i * KEY_RUN + j] += dot(g, v[j]);
        }
      }
    }
    for (var i = 0u; i < QUERY_TILE; i++) {
      let row = row_start + min(first_query + i, QUERIES - 1u);
      let row_lse = lse[row];
      let row_delta = delta[row];
      for (var j = 0u; j < KEY_RUN; j++) {
        let p = exp(scores[i * KEY_RUN + j] * SCALE - row_lse);
        scores[i * KEY_RUN + j] = select(0.0, p, first_query + i < QUERIES);
        products[i * KEY_RUN + j] = scores[i * KEY_RUN + j] * (products[i * KEY_RUN + j] - row_delta) * SCALE;
      }
      for (var d = 0u; d < QUADS; d++) {
        let q = qkv[query[i] + first_quad + d];
        let g = d_out[answer[i] + first_quad + d];
        for (var j = 0u; j < KEY_RUN; j++) {
          dk[j * QUADS + d] += products[i * KEY_RUN + j] * q;
          dv[j * QUADS + d] += scores[i * KEY_RUN + j] * g;
        }
      }
    }
  }

  for (var j = 0u; j < KEY_RUN; j++) {
    if (first_key + j < TOKENS) {
      let k_row = k_start + (first_key + j) * token + first_quad;
      let v_row = v_start + (first_key + j) * token + first_quad;
      for (var d = 0u; d < QUADS; d++) {
        if (first_quad + d < HEAD_QUADS) {
          d_qkv[k_row + d] = dk[j * QUADS + d];
          d_qkv[v_row + d] = dv[j * QUADS + d];
        }
      }
    }
  }
}
