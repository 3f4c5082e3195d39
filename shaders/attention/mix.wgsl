// Attention in steps, a row of weights for each query times rows of tokens.
//
//   SOFTMAX 1   y[i, d] = sum over j of w[i, j] * b[j, d] / sum over j of w[i, j], w[i, j] = exp(scores[i, j] - peak[i])
//               lse[i] = peak[i] + log of the sum over j of w[i, j]; for out = softmax(q k^T / sqrt(width)) v
//   SOFTMAX 0   y[i, d] = sum over j of scores[i, j] * b[j, d], with zeros past the last key; for d_q = d_scores k
//
// scores [N, HEADS, QUERIES, KEY_QUADS] of vec4f and peaks [N, HEADS, QUERIES, KEY_TILES], the largest score of each tile of
// keys, as scores.wgsl makes them; b [N, TOKENS, ...] and y [N, Y_TOKENS, ...] of vec4f: token t of head h of image n begins
// at START + (n * tokens + t) * TOKEN + h * HEAD. lse [N, HEADS, QUERIES]. Rows of y from QUERIES on become zero.
// With SOFTMAX 0 peaks and lse are not used. Host checks: KEY_TILES = ceil(KEY_QUADS / KEYS of scores.wgsl); with SOFTMAX 1
// Y_TOKENS = QUERIES.
//
// One invocation makes RUN queries times QUADS quads of the head: id.x counts tiles, id.y heads of all images. The parts of a
// head repeat the exponentials, which costs less than a pass over the scores for heads of up to 64 channels. A query or quad
// too many repeats the last one and is stored there again.

const RUN: u32 = 8u; // tile: queries an invocation
const QUADS: u32 = 4u; // tile: quads of the head an invocation

override TOKENS: u32;
override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override KEY_QUADS: u32;
override KEY_TILES: u32;
override HEAD_ROWS: u32; // N * HEADS
override B_START: u32;
override B_TOKEN: u32;
override B_HEAD: u32;
override Y_START: u32;
override Y_TOKENS: u32;
override Y_TOKEN: u32;
override Y_HEAD: u32;
override SOFTMAX: u32 = 1u;
override THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read> peaks: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let parts = (HEAD_QUADS + QUADS - 1u) / QUADS;
  let first_query = id.x / parts * RUN;
  let first_quad = id.x % parts * QUADS;
  if (first_query >= Y_TOKENS || id.y >= HEAD_ROWS) {
    return;
  }
  let image = id.y / HEADS;
  let head = id.y % HEADS;
  let b_start = B_START + image * TOKENS * B_TOKEN + head * B_HEAD;

  var row: array<u32, RUN>;
  var sums: array<vec4f, RUN * QUADS>;
  var peak: array<f32, RUN>;
  var totals: array<vec4f, RUN>;
  for (var i = 0u; i < RUN; i++) {
    row[i] = id.y * QUERIES + min(first_query + i, QUERIES - 1u);
    for (var d = 0u; d < QUADS; d++) {
      sums[i * QUADS + d] = vec4f();
    }
    peak[i] = -1e30;
    totals[i] = vec4f();
  }
  if (SOFTMAX == 1u) {
    for (var t = 0u; t < KEY_TILES; t++) {
      for (var i = 0u; i < RUN; i++) {
        peak[i] = max(peak[i], peaks[row[i] * KEY_TILES + t]);
      }
    }
  }
  var quad: array<u32, QUADS>;
  for (var d = 0u; d < QUADS; d++) {
    quad[d] = min(first_quad + d, HEAD_QUADS - 1u);
  }

  for (var k = 0u; k < KEY_QUADS; k++) {
    let there = k * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(TOKENS);
    var line: array<vec4f, RUN>;
    for (var i = 0u; i < RUN; i++) {
      line[i] = scores[row[i] * KEY_QUADS + k];
      if (SOFTMAX == 1u) {
        line[i] = select(vec4f(), exp(line[i] - peak[i]), there);
        totals[i] += line[i];
      }
    }
    let key0 = b_start + k * 4u * B_TOKEN;
    let key1 = b_start + min(k * 4u + 1u, TOKENS - 1u) * B_TOKEN;
    let key2 = b_start + min(k * 4u + 2u, TOKENS - 1u) * B_TOKEN;
    let key3 = b_start + min(k * 4u + 3u, TOKENS - 1u) * B_TOKEN;
    for (var d = 0u; d < QUADS; d++) {
      let values = mat4x4f(b[key0 + quad[d]], b[key1 + quad[d]], b[key2 + quad[d]], b[key3 + quad[d]]);
      for (var i = 0u; i < RUN; i++) {
        sums[i * QUADS + d] += values * line[i];
      }
    }
  }

  for (var i = 0u; i < RUN; i++) {
    let token = min(first_query + i, Y_TOKENS - 1u);
    var factor = select(0.0, 1.0, token < QUERIES);
    if (SOFTMAX == 1u) {
      let total = dot(totals[i], vec4f(1.0));
      factor /= total;
      if (first_quad == 0u) {
        lse[row[i]] = peak[i] + log(total);
      }
    }
    let at = Y_START + (image * Y_TOKENS + token) * Y_TOKEN + head * Y_HEAD;
    for (var d = 0u; d < QUADS; d++) {
      y[at + quad[d]] = sums[i * QUADS + d] * factor;
    }
  }
}
