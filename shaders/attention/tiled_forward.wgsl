// Attention of each head, softmax(q k^T * SCALE) v, with tiles of q, k and v staged in workgroup memory.
//
//   s[i, j] = SCALE * sum over d of q[i, d] * k[j, d]      lse[i] = log of the sum over j of exp(s[i, j])
//   out[i, d] = sum over j of exp(s[i, j] - lse[i]) * v[j, d]
//
// qkv, out and lse as in forward.wgsl; they are saved for the backward pass.
//
// A workgroup makes ROWS queries of one head (workgroup_id: query tiles, heads of all images) and goes through the keys
// COLUMNS at a time with a running maximum and sum (online softmax). An invocation makes 4 * RUN queries times 4 * KEYS keys
// of the scores, then, of what the weights of all its neighbours mix, the same queries times QUADS quads of the head: both
// products are scalars times vec4f out of workgroup memory, where q, k and the weights lie transposed, four queries or keys in
// a vec4f. Scores are scaled last, when the largest is taken off: what is nearly 0 then is nearly exact.
//
// q stays for all keys. k and v come in steps, DEPTH quads of channels of k or LINES keys of v: while one half of `staged` is
// multiplied, the values of the next step are on their way to registers, and then go into the other half. One barrier a step,
// and one more a tile of keys, for the largest score of a query is known to all of its invocations before the weights are.
// Neighbours are next to each other along the queries, so that what 8 of them touch lies in different banks or in one place.
// A key too many repeats the last one with a weight of zero, a query too many repeats the last one.
//
// Host checks: DOWN is 4 or 8; DEPTH divides ACROSS and 8; DEPTH * COLUMNS / 4 <= THREADS; LINES divides COLUMNS;
// LINES * WIDE <= HALF and is THREADS times 1 to 4; HEAD_QUADS <= WIDE.

const ACROSS: u32 = 8u; // tile: invocations along the keys, and along the channels
const DOWN: u32 = 8u; // tile: invocations along the queries
const RUN: u32 = 2u; // tile: quads of queries an invocation
const KEYS: u32 = 2u; // tile: quads of keys an invocation
const QUADS: u32 = 2u; // tile: quads of the head an invocation
const DEPTH: u32 = 4u; // tile: quads of channels of k a step
const LINES: u32 = 16u; // tile: keys of v a step
const THREADS: u32 = ACROSS * DOWN;
const ROW_QUADS: u32 = DOWN * RUN;
const ROWS: u32 = 4u * ROW_QUADS;
const COLUMN_QUADS: u32 = ACROSS * KEYS;
const COLUMNS: u32 = 4u * COLUMN_QUADS;
const WIDE: u32 = ACROSS * QUADS;
const V_LOADS: u32 = LINES * WIDE / THREADS;
const V_STEPS: u32 = COLUMNS / LINES;
// Pitches such that what 8 neighbours stage falls into different banks.
const Q_PITCH: u32 = ROW_QUADS + 1u;
const K_PITCH: u32 = COLUMN_QUADS + 8u / DEPTH;
const SHARE_PITCH: u32 = ROW_QUADS + 8u / DOWN - 1u;
const HALF: u32 = 4u * DEPTH * K_PITCH;

override TOKENS: u32;
override QUERIES: u32;
override HEADS: u32;
override HEAD_QUADS: u32;
override SCALE: f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;

var<workgroup> staged_q: array<vec4f, 4u * WIDE * Q_PITCH>; // [channel of a quad, quad, queries]
var<workgroup> staged: array<vec4f, 2u * HALF>; // [half], then of k [channel of a quad, quad, keys], of v [key, quad]
var<workgroup> shares: array<vec4f, COLUMNS * SHARE_PITCH>; // [key, queries]
var<workgroup> row_values: array<vec4f, ACROSS * ROW_QUADS>; // [invocation across, queries]: largest scores, at last sums

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3u) {
  let first_query = group.x * ROWS;
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = (group.y / HEADS) * TOKENS * token + (group.y % HEADS) * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS;
  let answer_start = ((group.y / HEADS) * QUERIES * HEADS + group.y % HEADS) * HEAD_QUADS;
  let down = local % DOWN;
  let across = local / DOWN;

  // Four queries times a quad at a time.
  for (var entry = local; entry < ROW_QUADS * WIDE; entry += THREADS) {
    let quad = entry % WIDE;
    let query = first_query + entry / WIDE * 4u;
    var turned = mat4x4f();
    if (quad < HEAD_QUADS) {
      turned = transpose(mat4x4f(
        qkv[q_start + min(query, QUERIES - 1u) * token + quad],
        qkv[q_start + min(query + 1u, QUERIES - 1u) * token + quad],
        qkv[q_start + min(query + 2u, QUERIES - 1u) * token + quad],
        qkv[q_start + min(query + 3u, QUERIES - 1u) * token + quad],
      ));
    }
    let at = quad * Q_PITCH + entry / WIDE;
    staged_q[at] = turned[0];
    staged_q[at + WIDE * Q_PITCH] = turned[1];
    staged_q[at + 2u * WIDE * Q_PITCH] = turned[2];
    staged_q[at + 3u * WIDE * Q_PITCH] = turned[3];
  }

  var scores: array<vec4f, 4u * KEYS * RUN>; // of a key, four queries each
  var sums: array<vec4f, 4u * RUN * QUADS>; // of a query, a quad of the head each
  var largest: array<vec4f, RUN>;
  var total: array<vec4f, RUN>; // over the keys of this invocation
  for (var a = 0u; a < RUN; a++) {
    largest[a] = vec4f(-1e30);
    total[a] = vec4f();
    for (var j = 0u; j < 4u * KEYS; j++) {
      scores[j * RUN + a] = vec4f();
    }
    for (var i = 0u; i < 4u * QUADS; i++) {
      sums[i * RUN + a] = vec4f();
    }
  }

  let k_steps = (HEAD_QUADS + DEPTH - 1u) / DEPTH;
  let tile_steps = k_steps + V_STEPS;
  let steps = (TOKENS + COLUMNS - 1u) / COLUMNS * tile_steps;
  var next_key = 0u; // the first of the tile that the next step belongs to
  var next_step = 0u; // of the tile
  var first_key = 0u; // the same of the step that is multiplied
  var now = 0u;
  for (var step = 0u; step <= steps; step++) {
    let there = step % 2u * HALF; // where the next step goes
    let here = HALF - there;

    var next: array<vec4f, 4u>;
    if (step < steps) {
      if (next_step < k_steps) {
        let quad = min(next_step * DEPTH + local % DEPTH, HEAD_QUADS - 1u); // where q is zero, any
        for (var i = 0u; i < 4u; i++) {
          let key = min(next_key + local / DEPTH * 4u + i, TOKENS - 1u);
          next[i] = qkv[k_start + key * token + quad];
        }
      } else {
        let key0 = next_key + (next_step - k_steps) * LINES;
        for (var s = 0u; s < V_LOADS; s++) {
          let entry = local + s * THREADS;
          let key = min(key0 + entry / WIDE, TOKENS - 1u);
          next[s] = qkv[v_start + key * token + min(entry % WIDE, HEAD_QUADS - 1u)];
        }
      }
    }

    if (step > 0u && now < k_steps) {
      let depth = min(DEPTH, HEAD_QUADS - now * DEPTH);
      for (var d = 0u; d < depth; d++) {
        for (var c = 0u; c < 4u; c++) {
          let q_at = (c * WIDE + now * DEPTH + d) * Q_PITCH + down;
          let k_at = here + (c * DEPTH + d) * K_PITCH + across;
          var queries: array<vec4f, RUN>;
          for (var a = 0u; a < RUN; a++) {
            queries[a] = staged_q[q_at + a * DOWN];
          }
          for (var j = 0u; j < KEYS; j++) {
            let keys = staged[k_at + j * ACROSS];
            for (var a = 0u; a < RUN; a++) {
              scores[(4u * j) * RUN + a] = fma(queries[a], vec4f(keys.x), scores[(4u * j) * RUN + a]);
              scores[(4u * j + 1u) * RUN + a] = fma(queries[a], vec4f(keys.y), scores[(4u * j + 1u) * RUN + a]);
              scores[(4u * j + 2u) * RUN + a] = fma(queries[a], vec4f(keys.z), scores[(4u * j + 2u) * RUN + a]);
              scores[(4u * j + 3u) * RUN + a] = fma(queries[a], vec4f(keys.w), scores[(4u * j + 3u) * RUN + a]);
            }
          }
        }
      }
      if (now + 1u == k_steps) {
        for (var j = 0u; j < KEYS; j++) {
          for (var c = 0u; c < 4u; c++) {
            let present = first_key + (j * ACROSS + across) * 4u + c < TOKENS;
            for (var a = 0u; a < RUN; a++) {
              scores[(4u * j + c) * RUN + a] = select(vec4f(-1e30), scores[(4u * j + c) * RUN + a], present);
            }
          }
        }
        for (var a = 0u; a < RUN; a++) {
          var peak = scores[a];
          for (var j = 1u; j < 4u * KEYS; j++) {
            peak = max(peak, scores[j * RUN + a]);
          }
          row_values[across * ROW_QUADS + a * DOWN + down] = peak;
        }
      }
    } else if (step > 0u) {
      let line0 = (now - k_steps) * LINES;
      let lines = min(LINES, max(TOKENS, first_key + line0) - first_key - line0);
      for (var first_line = 0u; first_line < lines; first_line += 4u) {
        for (var n = first_line; n < first_line + 4u; n++) {
          let shares_at = (line0 + n) * SHARE_PITCH + down;
          var values: array<vec4f, QUADS>;
          for (var d = 0u; d < QUADS; d++) {
            values[d] = staged[here + n * WIDE + d * ACROSS + across];
          }
          for (var a = 0u; a < RUN; a++) {
            let w = shares[shares_at + a * DOWN];
            for (var d = 0u; d < QUADS; d++) {
              sums[(4u * d) * RUN + a] = fma(vec4f(w.x), values[d], sums[(4u * d) * RUN + a]);
              sums[(4u * d + 1u) * RUN + a] = fma(vec4f(w.y), values[d], sums[(4u * d + 1u) * RUN + a]);
              sums[(4u * d + 2u) * RUN + a] = fma(vec4f(w.z), values[d], sums[(4u * d + 2u) * RUN + a]);
              sums[(4u * d + 3u) * RUN + a] = fma(vec4f(w.w), values[d], sums[(4u * d + 3u) * RUN + a]);
            }
          }
        }
      }
    }

    if (step < steps) {
      if (next_step >= k_steps) {
        for (var s = 0u; s < V_LOADS; s++) {
          staged[there + local + s * THREADS] = next[s];
        }
      } else if (local < DEPTH * COLUMN_QUADS) {
        let columns = transpose(mat4x4f(next[0], next[1], next[2], next[3]));
        let at = there + local % DEPTH * K_PITCH + local / DEPTH;
        staged[at] = columns[0];
        staged[at + DEPTH * K_PITCH] = columns[1];
        staged[at + 2u * DEPTH * K_PITCH] = columns[2];
        staged[at + 3u * DEPTH * K_PITCH] = columns[3];
      }
    }
    workgroupBarrier();

    if (step > 0u && now + 1u == k_steps) {
      for (var a = 0u; a < RUN; a++) {
        var peak = largest[a];
        for (var other = 0u; other < ACROSS; other++) {
          peak = max(peak, row_values[other * ROW_QUADS + a * DOWN + down]);
        }
        let fade = exp((largest[a] - peak) * SCALE);
        largest[a] = peak;
        total[a] *= fade;
        for (var d = 0u; d < QUADS; d++) {
          sums[(4u * d) * RUN + a] *= fade.x;
          sums[(4u * d + 1u) * RUN + a] *= fade.y;
          sums[(4u * d + 2u) * RUN + a] *= fade.z;
          sums[(4u * d + 3u) * RUN + a] *= fade.w;
        }
        for (var j = 0u; j < KEYS; j++) {
          for (var c = 0u; c < 4u; c++) {
            let w = exp((scores[(4u * j + c) * RUN + a] - peak) * SCALE);
            total[a] += w;
            shares[((j * ACROSS + across) * 4u + c) * SHARE_PITCH + a * DOWN + down] = w;
            scores[(4u * j + c) * RUN + a] = vec4f();
          }
        }
      }
      workgroupBarrier();
    }

    first_key = next_key;
    now = next_step;
    next_step++;
    if (next_step == tile_steps) {
      next_step = 0u;
      next_key += COLUMNS;
    }
  }

  for (var a = 0u; a < RUN; a++) {
    row_values[across * ROW_QUADS + a * DOWN + down] = total[a];
  }
  workgroupBarrier();
  for (var a = 0u; a < RUN; a++) {
    var whole = vec4f();
    for (var other = 0u; other < ACROSS; other++) {
      whole += row_values[other * ROW_QUADS + a * DOWN + down];
    }
    let row_lse = fma(largest[a], vec4f(SCALE), log(whole));
    // A query too many repeats the last and is stored there again: a branch a store is what compilers take most time for.
    for (var d = 0u; d < QUADS; d++) {
      let quad = d * ACROSS + across;
      if (quad < HEAD_QUADS) {
        for (var c = 0u; c < 4u; c++) {
          let query = min(first_query + (a * DOWN + down) * 4u + c, QUERIES - 1u);
          out[answer_start + query * HEADS * HEAD_QUADS + quad] = sums[(4u * d + c) * RUN + a] / whole[c];
        }
      }
    }
    if (across == 0u) {
      for (var c = 0u; c < 4u; c++) {
        lse[group.y * QUERIES + min(first_query + (a * DOWN + down) * 4u + c, QUERIES - 1u)] = row_lse[c];
      }
    }
  }
}
