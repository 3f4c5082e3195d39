// Attention in steps, the products with rows of keys: every query against every key, stored.
//
//   r[i, j] = sum over d of a[i, d] * b[j, d]
//
//   MODE 0   scores[i, j] = SCALE * r, and the largest of each row of a tile       a = q, b = k
//   MODE 1   scores[i, j] = exp(SCALE * r - lse[i])                                a = q, b = k: for the gradient
//   MODE 2   scores[i, j] = SCALE * scores[i, j] * (r - delta[i])                  a = d_out, b = v: the scores' gradient
//
// a [N, QUERIES or more, ...], b [N, TOKENS, ...] of vec4f: token t of head h of image n begins at
// START + (n * tokens + t) * TOKEN + h * HEAD. scores [N, HEADS, QUERIES, KEY_QUADS] of vec4f, four keys each; in place of
// keys past the last stands the last again in mode 0, zeros otherwise. rows is lse or delta [N, HEADS, QUERIES];
// peaks [N, HEADS, QUERIES, ceil(KEY_QUADS / KEYS)].
//
// One invocation makes RUN queries times KEYS quads of keys: id.x counts tiles, id.y heads of all images. On an adapter
// where a load costs several multiply-adds this beats forward.wgsl, which holds fewer queries in registers; it takes memory
// for the scores, and the host decides. A query or quad of keys too many repeats the last one and is stored there again, for
// a branch a store is what compilers take most time for. Host checks: KEY_QUADS = ceil(TOKENS / 4).

const RUN: u32 = 8u; // tile: queries an invocation
const KEYS: u32 = 2u; // tile: quads of keys an invocation

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
override B_START: u32;
override B_TOKEN: u32;
override B_HEAD: u32;
override SCALE: f32;
override MODE: u32 = 0u;
override THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read> rows: array<f32>;
@group(0) @binding(3) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> peaks: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let key_tiles = (KEY_QUADS + KEYS - 1u) / KEYS;
  let first_query = id.x / key_tiles * RUN;
  let first_key = id.x % key_tiles * KEYS;
  if (first_query >= QUERIES || id.y >= HEAD_ROWS) {
    return;
  }
  let image = id.y / HEADS;
  let head = id.y % HEADS;
  let a_start = A_START + image * A_TOKENS * A_TOKEN + head * A_HEAD;
  let b_start = B_START + image * TOKENS * B_TOKEN + head * B_HEAD;

  var query: array<u32, RUN>; // where each row begins
  var sums: array<vec4f, RUN * KEYS>;
  for (var i = 0u; i < RUN; i++) {
    query[i] = a_start + min(first_query + i, QUERIES - 1u) * A_TOKEN;
    for (var j = 0u; j < KEYS; j++) {
      sums[i * KEYS + j] = vec4f();
    }
  }
  var quad: array<u32, KEYS>;
  var key0: array<u32, KEYS>;
  var key1: array<u32, KEYS>;
  var key2: array<u32, KEYS>;
  var key3: array<u32, KEYS>;
  for (var j = 0u; j < KEYS; j++) {
    quad[j] = min(first_key + j, KEY_QUADS - 1u);
    key0[j] = b_start + quad[j] * 4u * B_TOKEN;
    key1[j] = b_start + min(quad[j] * 4u + 1u, TOKENS - 1u) * B_TOKEN;
    key2[j] = b_start + min(quad[j] * 4u + 2u, TOKENS - 1u) * B_TOKEN;
    key3[j] = b_start + min(quad[j] * 4u + 3u, TOKENS - 1u) * B_TOKEN;
  }

  for (var c = 0u; c < HEAD_QUADS; c++) {
    var line: array<vec4f, RUN>;
    for (var i = 0u; i < RUN; i++) {
      line[i] = a[query[i] + c];
    }
    for (var j = 0u; j < KEYS; j++) {
      // The quads of four keys as columns: a row of queries times it is a quad of scores.
      let keys = mat4x4f(b[key0[j] + c], b[key1[j] + c], b[key2[j] + c], b[key3[j] + c]);
      for (var i = 0u; i < RUN; i++) {
        sums[i * KEYS + j] += line[i] * keys;
      }
    }
  }

  for (var i = 0u; i < RUN; i += 1u) {
    let row = id.y * QUERIES + min(first_query + i, QUERIES - 1u);
    if (MODE == 0u) {
      var largest = vec4f(-1e30);
      for (var j = 0u; j < KEYS; j++) {
        let scaled = sums[i * KEYS + j] * SCALE;
        largest = max(largest, scaled);
        scores[row * KEY_QUADS + quad[j]] = scaled;
      }
      peaks[row * key_tiles + first_key / KEYS] = max(max(largest.x, largest.y), max(largest.z, largest.w));
    } else if (MODE == 1u) {
      for (var j = 0u; j < KEYS; j++) {
        let there = quad[j] * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(TOKENS);
        scores[row * KEY_QUADS + quad[j]] = select(vec4f(), exp(sums[i * KEYS + j] * SCALE - rows[row]), there);
      }
    } else {
      for (var j = 0u; j < KEYS; j++) {
        // What is there is taken into account, and so must not be changed twice.
        if (first_query + i < QUERIES && first_key + j < KEY_QUADS) {
          scores[row * KEY_QUADS + quad[j]] *= SCALE * (sums[i * KEYS + j] - rows[row]);
        }
      }
    }
  }
}
