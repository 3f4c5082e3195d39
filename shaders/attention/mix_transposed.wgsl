// Attention in steps, the transpose of stored weights times rows of queries.
//
//   y[j, d] = sum over i of scores[i, j] * a[i, d]
//
// Used for d_v = weights^T d_out, and for d_k = d_scores^T q. scores [N, HEADS, QUERIES, KEY_QUADS] of vec4f;
// a [N, A_TOKENS, ...] and y [N, TOKENS, ...] of vec4f: token t of head h of image n begins at
// START + (n * tokens + t) * TOKEN + h * HEAD.
//
// One invocation makes KEYS quads of keys times QUADS quads of the head: id.x counts tiles, id.y heads of all images. It
// takes four queries at a time, so that a sum is fetched and put back once for four multiply-adds: there are more of them
// than a CPU has registers.

const KEYS: u32 = 2u; // tile: quads of keys an invocation
const QUADS: u32 = 4u; // tile: quads of the head an invocation

override TOKENS: u32;
override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override KEY_QUADS: u32;
override HEAD_ROWS: u32; // N * HEADS
override A_START: u32;
override A_TOKENS: u32;
override A_TOKEN: u32;
override A_HEAD: u32;
override Y_START: u32;
override Y_TOKEN: u32;
override Y_HEAD: u32;
override THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let parts = (HEAD_QUADS + QUADS - 1u) / QUADS;
  let first_key = id.x / parts * KEYS;
  let first_quad = id.x % parts * QUADS;
  if (first_key >= KEY_QUADS || id.y >= HEAD_ROWS) {
    return;
  }
  let image = id.y / HEADS;
  let head = id.y % HEADS;
  let a_start = A_START + image * A_TOKENS * A_TOKEN + head * A_HEAD;
  let row_start = id.y * QUERIES * KEY_QUADS;

  var sums: array<vec4f, KEYS * 4u * QUADS>; // of key t of quad j and quad d of the head at (j * 4 + t) * QUADS + d
  for (var s = 0u; s < KEYS * 4u * QUADS; s++) {
    sums[s] = vec4f();
  }
  var key: array<u32, KEYS>; // a quad too many repeats the last
  for (var j = 0u; j < KEYS; j++) {
    key[j] = row_start + min(first_key + j, KEY_QUADS - 1u);
  }
  var quad: array<u32, QUADS>;
  for (var d = 0u; d < QUADS; d++) {
    quad[d] = a_start + min(first_quad + d, HEAD_QUADS - 1u);
  }

  for (var i = 0u; i < QUERIES; i += 4u) {
    // Behind the last query its row again, with weights of zero.
    let i1 = min(i + 1u, QUERIES - 1u);
    let i2 = min(i + 2u, QUERIES - 1u);
    let i3 = min(i + 3u, QUERIES - 1u);
    var weights: array<mat4x4f, KEYS>; // a column a key, four queries each
    for (var j = 0u; j < KEYS; j++) {
      weights[j] = transpose(mat4x4f(
        scores[key[j] + i * KEY_QUADS],
        select(vec4f(), scores[key[j] + i1 * KEY_QUADS], i + 1u < QUERIES),
        select(vec4f(), scores[key[j] + i2 * KEY_QUADS], i + 2u < QUERIES),
        select(vec4f(), scores[key[j] + i3 * KEY_QUADS], i + 3u < QUERIES),
      ));
    }
    for (var d = 0u; d < QUADS; d++) {
      let lines = mat4x4f(
        a[quad[d] + i * A_TOKEN],
        a[quad[d] + i1 * A_TOKEN],
        a[quad[d] + i2 * A_TOKEN],
        a[quad[d] + i3 * A_TOKEN],
      );
      for (var j = 0u; j < KEYS; j++) {
        for (var t = 0u; t < 4u; t++) {
          sums[(j * 4u + t) * QUADS + d] += lines * weights[j][t];
        }
      }
    }
  }

  for (var s = 0u; s < KEYS * 4u; s += 1u) {
    // A quad of keys or of the head too many has the sums of the last one, and stores them there again.
    let token = min(first_key + s / 4u, KEY_QUADS - 1u) * 4u + s % 4u;
    if (token < TOKENS) {
      let at = Y_START + (image * TOKENS + token) * Y_TOKEN + head * Y_HEAD;
      for (var d = 0u; d < QUADS; d++) {
        y[at + min(first_quad + d, HEAD_QUADS - 1u)] = sums[s * QUADS + d];
      }
    }
  }
}
