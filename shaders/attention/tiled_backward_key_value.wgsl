// Attention gradient with respect to k and v, with tiles staged in workgroup memory.
//
//   p[i, j] = exp(SCALE * (q k^T)[i, j] - lse[i])            ds[i, j] = p[i, j] * ((d_out v^T)[i, j] - delta[i])
//   dk[j, d] = SCALE * sum over i of ds[i, j] * q[i, d]      dv[j, d] = sum over i of p[i, j] * d_out[i, d]
//
// Layouts as in forward.wgsl; delta as tiled_backward_query.wgsl made it. This kernel writes the k and v thirds of d_qkv.
//
// Work is shared as in tiled_backward_query.wgsl with keys and queries exchanged: a workgroup makes ROWS keys of one head
// (workgroup_id: key tiles, heads of all images) and goes through the queries COLUMNS at a time; an invocation makes 4 * RUN
// keys times 4 * QUERY_QUADS queries of the products, then the same keys times QUADS quads of the head. A tile of queries takes
// four rounds of steps: k q^T, DEPTH quads of channels a step; p d_out, LINES queries a step; v d_out^T and ds q likewise. p
// stays in `shares` until its factor is known. A query too many has an lse so large that p is zero.
//
// Host checks: DOWN is 4 or 8; DEPTH divides ACROSS and 8; DEPTH * (ROW_QUADS + COLUMN_QUADS) <= THREADS; COLUMNS <= THREADS;
// LINES divides COLUMNS; LINES * WIDE <= HALF and is THREADS times 1 to 4; HEAD_QUADS <= WIDE.

const ACROSS: u32 = 8u; // tile: invocations along the queries, and along the channels
const DOWN: u32 = 8u; // tile: invocations along the keys
const RUN: u32 = 2u; // tile: quads of keys an invocation
const QUERY_QUADS: u32 = 2u; // tile: quads of queries an invocation
const QUADS: u32 = 2u; // tile: quads of the head an invocation
const DEPTH: u32 = 2u; // tile: quads of channels a step
const LINES: u32 = 16u; // tile: queries a step of p d_out and ds q
const THREADS: u32 = ACROSS * DOWN;
const ROW_QUADS: u32 = DOWN * RUN;
const ROWS: u32 = 4u * ROW_QUADS;
const COLUMN_QUADS: u32 = ACROSS * QUERY_QUADS;
const COLUMNS: u32 = 4u * COLUMN_QUADS;
const WIDE: u32 = ACROSS * QUADS;
const LINE_LOADS: u32 = LINES * WIDE / THREADS;
const LINE_STEPS: u32 = COLUMNS / LINES;
// Pitches such that what 8 neighbours stage falls into different banks.
const ROW_PITCH: u32 = ROW_QUADS + 8u / DEPTH;
const COLUMN_PITCH: u32 = COLUMN_QUADS + 8u / DEPTH;
const SHARE_PITCH: u32 = ROW_QUADS + 8u / DOWN - 1u;
const COLUMNS_AT: u32 = 4u * DEPTH * ROW_PITCH; // where the columns begin in a half
const HALF: u32 = COLUMNS_AT + 4u * DEPTH * COLUMN_PITCH;

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

// [half], then rows and columns [channel of a quad, quad, keys or queries], or lines [query, quad]
var<workgroup> staged: array<vec4f, 2u * HALF>;
var<workgroup> shares: array<vec4f, COLUMNS * SHARE_PITCH>; // [query, keys]: p, then ds
var<workgroup> column_lse: array<f32, COLUMNS>;
var<workgroup> column_delta: array<f32, COLUMNS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3u) {
  let first_key = group.x * ROWS;
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = (group.y / HEADS) * TOKENS * token + (group.y % HEADS) * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS;
  let answer = HEADS * HEAD_QUADS;
  let answer_start = (group.y / HEADS) * QUERIES * answer + (group.y % HEADS) * HEAD_QUADS;
  let down = local % DOWN;
  let across = local / DOWN;

  // What this invocation stages of each step of k q^T and v d_out^T: four keys, or four queries, times a quad.
  let stages_rows = local < DEPTH * ROW_QUADS;
  let stages = local < DEPTH * (ROW_QUADS + COLUMN_QUADS);
  let own_quad = local % DEPTH;
  let own_four = select(local - DEPTH * ROW_QUADS, local, stages_rows) / DEPTH;
  let own_pitch = select(COLUMN_PITCH, ROW_PITCH, stages_rows);
  let own_place = select(COLUMNS_AT, 0u, stages_rows) + own_quad * own_pitch + own_four;

  var scores: array<vec4f, 4u * QUERY_QUADS * RUN>; // of a query, four keys each: of k q^T, then of v d_out^T
  var dk: array<vec4f, 4u * RUN * QUADS>; // of a key, a quad of the head each
  var dv: array<vec4f, 4u * RUN * QUADS>;
  for (var a = 0u; a < RUN; a++) {
    for (var j = 0u; j < 4u * QUERY_QUADS; j++) {
      scores[j * RUN + a] = vec4f();
    }
    for (var i = 0u; i < 4u * QUADS; i++) {
      dk[i * RUN + a] = vec4f();
      dv[i * RUN + a] = vec4f();
    }
  }

  let round = (HEAD_QUADS + DEPTH - 1u) / DEPTH; // steps of k q^T, and of v d_out^T
  let half_steps = round + LINE_STEPS; // of the first two rounds, and of the others
  let steps = (QUERIES + COLUMNS - 1u) / COLUMNS * 2u * half_steps;
  var next_query = 0u; // the first of the tile that the next step belongs to
  var next_second = false; // whether it is of the last two rounds
  var next_step = 0u; // of two rounds
  var first_query = 0u; // the same of the step that is multiplied
  var second = false;
  var now = 0u;
  for (var step = 0u; step <= steps; step++) {
    let there = step % 2u * HALF; // where the next step goes
    let here = HALF - there;

    var next: array<vec4f, 4u>;
    var next_lse = 1e30;
    var next_delta = 0.0;
    if (step < steps) {
      if (next_step < round) {
        let quad = next_step * DEPTH + own_quad;
        let token0 = select(next_query, first_key, stages_rows) + own_four * 4u;
        let last = select(QUERIES, TOKENS, stages_rows) - 1u;
        let present = quad < HEAD_QUADS && stages;
        for (var i = 0u; i < 4u; i++) {
          next[i] = vec4f();
        }
        if (present && !stages_rows && next_second) {
          for (var i = 0u; i < 4u; i++) {
            next[i] = d_out[answer_start + min(token0 + i, last) * answer + quad];
          }
        } else if (present) {
          let start = select(q_start, select(k_start, v_start, next_second), stages_rows) + quad;
          for (var i = 0u; i < 4u; i++) {
            next[i] = qkv[start + min(token0 + i, last) * token];
          }
        }
        if (next_step == 0u && local < COLUMNS && next_query + local < QUERIES) {
          next_lse = lse[group.y * QUERIES + next_query + local];
          next_delta = delta[group.y * QUERIES + next_query + local];
        }
      } else {
        let query0 = next_query + (next_step - round) * LINES;
        if (next_second) {
          for (var s = 0u; s < LINE_LOADS; s++) {
            let entry = local + s * THREADS;
            next[s] = qkv[q_start + min(query0 + entry / WIDE, QUERIES - 1u) * token + min(entry % WIDE, HEAD_QUADS - 1u)];
          }
        } else {
          for (var s = 0u; s < LINE_LOADS; s++) {
            let entry = local + s * THREADS;
            next[s] = d_out[answer_start + min(query0 + entry / WIDE, QUERIES - 1u) * answer + min(entry % WIDE, HEAD_QUADS - 1u)];
          }
        }
      }
    }

    if (step > 0u && now < round) {
      let depth = min(DEPTH, HEAD_QUADS - now * DEPTH);
      for (var d = 0u; d < depth; d++) {
        for (var c = 0u; c < 4u; c++) {
          let rows_at = here + (c * DEPTH + d) * ROW_PITCH + down;
          let columns_at = here + COLUMNS_AT + (c * DEPTH + d) * COLUMN_PITCH + across;
          var rows: array<vec4f, RUN>;
          for (var a = 0u; a < RUN; a++) {
            rows[a] = staged[rows_at + a * DOWN];
          }
          for (var j = 0u; j < QUERY_QUADS; j++) {
            let queries = staged[columns_at + j * ACROSS];
            for (var a = 0u; a < RUN; a++) {
              scores[(4u * j) * RUN + a] = fma(rows[a], vec4f(queries.x), scores[(4u * j) * RUN + a]);
              scores[(4u * j + 1u) * RUN + a] = fma(rows[a], vec4f(queries.y), scores[(4u * j + 1u) * RUN + a]);
              scores[(4u * j + 2u) * RUN + a] = fma(rows[a], vec4f(queries.z), scores[(4u * j + 2u) * RUN + a]);
              scores[(4u * j + 3u) * RUN + a] = fma(rows[a], vec4f(queries.w), scores[(4u * j + 3u) * RUN + a]);
            }
          }
        }
      }
      if (now + 1u == round && second) {
        for (var j = 0u; j < QUERY_QUADS; j++) {
          for (var c = 0u; c < 4u; c++) {
            let query = (j * ACROSS + across) * 4u + c;
            let query_delta = column_delta[query];
            for (var a = 0u; a < RUN; a++) {
              shares[query * SHARE_PITCH + a * DOWN + down] *= scores[(4u * j + c) * RUN + a] - query_delta;
              scores[(4u * j + c) * RUN + a] = vec4f();
            }
          }
        }
      } else if (now + 1u == round) {
        for (var j = 0u; j < QUERY_QUADS; j++) {
          for (var c = 0u; c < 4u; c++) {
            let query = (j * ACROSS + across) * 4u + c;
            let query_lse = vec4f(column_lse[query]);
            for (var a = 0u; a < RUN; a++) {
              let p = exp(fma(scores[(4u * j + c) * RUN + a], vec4f(SCALE), -query_lse));
              shares[query * SHARE_PITCH + a * DOWN + down] = p;
              scores[(4u * j + c) * RUN + a] = vec4f();
            }
          }
        }
      }
    } else if (step > 0u) {
      let line0 = (now - round) * LINES;
      let lines = min(LINES, max(QUERIES, first_query + line0) - first_query - line0);
      if (second) {
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
                dk[(4u * d) * RUN + a] = fma(vec4f(w.x), values[d], dk[(4u * d) * RUN + a]);
                dk[(4u * d + 1u) * RUN + a] = fma(vec4f(w.y), values[d], dk[(4u * d + 1u) * RUN + a]);
                dk[(4u * d + 2u) * RUN + a] = fma(vec4f(w.z), values[d], dk[(4u * d + 2u) * RUN + a]);
                dk[(4u * d + 3u) * RUN + a] = fma(vec4f(w.w), values[d], dk[(4u * d + 3u) * RUN + a]);
              }
            }
          }
        }
      } else {
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
                dv[(4u * d) * RUN + a] = fma(vec4f(w.x), values[d], dv[(4u * d) * RUN + a]);
                dv[(4u * d + 1u) * RUN + a] = fma(vec4f(w.y), values[d], dv[(4u * d + 1u) * RUN + a]);
                dv[(4u * d + 2u) * RUN + a] = fma(vec4f(w.z), values[d], dv[(4u * d + 2u) * RUN + a]);
                dv[(4u * d + 3u) * RUN + a] = fma(vec4f(w.w), values[d], dv[(4u * d + 3u) * RUN + a]);
              }
            }
          }
        }
      }
    }

    if (step < steps) {
      if (next_step >= round) {
        for (var s = 0u; s < LINE_LOADS; s++) {
          staged[there + local + s * THREADS] = next[s];
        }
      } else if (stages) {
        let turned = transpose(mat4x4f(next[0], next[1], next[2], next[3]));
        let at = there + own_place;
        staged[at] = turned[0];
        staged[at + DEPTH * own_pitch] = turned[1];
        staged[at + 2u * DEPTH * own_pitch] = turned[2];
        staged[at + 3u * DEPTH * own_pitch] = turned[3];
      }
      if (next_step == 0u && !next_second && local < COLUMNS) {
        column_lse[local] = next_lse;
        column_delta[local] = next_delta;
      }
    }
    workgroupBarrier();

    first_query = next_query;
    second = next_second;
    now = next_step;
    next_step++;
    if (next_step == half_steps) {
      next_step = 0u;
      next_second = !next_second;
      if (!next_second) {
        next_query += COLUMNS;
      }
    }
  }

  // A key too many repeats the last and is stored there again: a branch a store is what compilers take most time for.
  for (var d = 0u; d < QUADS; d++) {
    let quad = d * ACROSS + across;
    if (quad < HEAD_QUADS) {
      for (var a = 0u; a < RUN; a++) {
        for (var c = 0u; c < 4u; c++) {
          let at = min(first_key + (a * DOWN + down) * 4u + c, TOKENS - 1u) * token + quad;
          d_qkv[k_start + at] = dk[(4u * d + c) * RUN + a] * SCALE;
          d_qkv[v_start + at] = dv[(4u * d + c) * RUN + a];
        }
      }
    }
  }
}
