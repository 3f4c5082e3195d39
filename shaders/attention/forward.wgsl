// Attention of each head, softmax(q k^T * SCALE) v, without ever storing the scores.
//
//   s[i, j] = SCALE * sum over d of q[i, d] * k[j, d]      lse[i] = log of the sum over j of exp(s[i, j])
//   out[i, d] = sum over j of exp(s[i, j] - lse[i]) * v[j, d]
//
// qkv [N, TOKENS, HEADS, 3, HEAD_QUADS] of vec4f: q, k and v of a head follow one another, widths padded to a multiple of
// four with zeros (the packed weights of the qkv layer see to that). out [N, QUERIES, HEADS, HEAD_QUADS]; lse [N, HEADS,
// QUERIES]. Only the first QUERIES tokens ask; all answer. SCALE is 1 / sqrt(head width), as q and k each times width^-1/4.
//
// Keys are taken KEYS at a time with a running maximum and sum (online softmax, Milakov & Gimelshein 2018). One invocation
// makes QUERY_RUN queries times QUADS quads of the head: id.x counts query tiles, id.y heads of all images, id.z parts of
// the head, each of which repeats the scores. Saved for the backward pass: qkv, out and lse.

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
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first_query = id.x * QUERY_RUN;
  let head = id.y % HEADS;
  let image = id.y / HEADS;
  let first_quad = id.z * QUADS;
  if (first_query >= QUERIES || image >= IMAGES) {
    return;
  }
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = image * TOKENS * token + head * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS + first_quad;

  var query: array<u32, QUERY_RUN>;
  var largest: array<f32, QUERY_RUN>;
  var total: array<f32, QUERY_RUN>;
  var sums: array<vec4f, QUERY_RUN * QUADS>;
  for (var i = 0u; i < QUERY_RUN; i++) {
    query[i] = q_start + min(first_query + i, QUERIES - 1u) * token;
    largest[i] = -1e30;
    total[i] = 0.0;
    for (var d = 0u; d < QUADS; d++) {
      sums[i * QUADS + d] = vec4f();
    }
  }

  for (var first_key = 0u; first_key < TOKENS; first_key += KEYS) {
    var key: array<u32, KEYS>;
    var scores: array<f32, QUERY_RUN * KEYS>;
    for (var j = 0u; j < KEYS; j++) {
      key[j] = min(first_key + j, TOKENS - 1u) * token;
      for (var i = 0u; i < QUERY_RUN; i++) {
        scores[i * KEYS + j] = 0.0;
      }
    }
    for (var c = 0u; c < HEAD_QUADS; c++) {
      var q: array<vec4f, QUERY_RUN>;
      for (var i = 0u; i < QUERY_RUN; i++) {
        q[i] = qkv[query[i] + c];
      }
      for (var j = 0u; j < KEYS; j++) {
        let k = qkv[k_start + key[j] + c];
        for (var i = 0u; i < QUERY_RUN; i++) {
          scores[i * KEYS + j] += dot(q[i], k);
        }
      }
    }
    for (var i = 0u; i < QUERY_RUN; i++) {
      var peak = largest[i];
      for (var j = 0u; j < KEYS; j++) {
        scores[i * KEYS + j] = select(-1e30, scores[i * KEYS + j] * SCALE, first_key + j < TOKENS);
        peak = max(peak, scores[i * KEYS + j]);
      }
      let fade = exp(largest[i] - peak);
      largest[i] = peak;
      total[i] *= fade;
      for (var d = 0u; d < QUADS; d++) {
        sums[i * QUADS + d] *= fade;
      }
      for (var j = 0u; j < KEYS; j++) {
        scores[i * KEYS + j] = exp(scores[i * KEYS + j] - peak);
        total[i] += scores[i * KEYS + j];
      }
    }
    for (var j = 0u; j < KEYS; j++) {
      for (var d = 0u; d < QUADS; d++) {
        let v = qkv[v_start + key[j] + d];
        for (var i = 0u; i < QUERY_RUN; i++) {
          sums[i * QUADS + d] += scores[i * KEYS + j] * v;
        }
      }
    }
  }

  for (var i = 0u; i < QUERY_RUN; i++) {
    if (first_query + i < QUERIES) {
      let row = ((image * QUERIES + first_query + i) * HEADS + head) * HEAD_QUADS + first_quad;
      for (var d = 0u; d < QUADS; d++) {
        if (first_quad + d < HEAD_QUADS) {
          out[row + d] = sums[i * QUADS + d] / total[i];
        }
      }
      if (first_quad == 0u) {
        lse[(image * HEADS + head) * QUERIES + first_query + i] = largest[i] + log(total[i]);
      }
    }
  }
}
