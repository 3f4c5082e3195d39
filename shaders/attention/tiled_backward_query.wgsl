// Attention gradient with respect to q, and the row sums that the gradient of k and v needs, with tiles staged in workgroup
// memory.
//
//   p[i, j] = exp(SCALE * (q k^T)[i, j] - lse[i])            delta[i] = sum over d of d_out[i, d] * out[i, d]
//   ds[i, j] = p[i, j] * ((d_out v^T)[i, j] - delta[i])      dq[i, d] = SCALE * sum over j of ds[i, j] * k[j, d]
//
// Layouts as in forward.wgsl and backward_query.wgsl: this kernel writes the q third of d_qkv (zero for tokens from QUERIES
// on) and delta. Saved by the forward pass: qkv, out and lse.
//
// Work is shared as in tiled_forward.wgsl: a workgroup makes ROWS queries of one head and goes through the keys COLUMNS at a
// time; an invocation makes 4 * RUN queries times 4 * KEYS keys of both products, then the same queries times QUADS quads of
// the head. A tile of keys takes three rounds of steps: q k^T and d_out v^T, DEPTH quads of channels of rows and columns a
// step, and ds k, LINES keys a step. p waits for its factor in the place in `shares` where ds goes, which spares registers.
// Unlike there the rows too come in steps, for q and d_out together have no room; so one barrier a step is all.
//
// Host checks: DOWN is 4 or 8; DEPTH divides ACROSS and 8; DEPTH * (ROW_QUADS + COLUMN_QUADS) <= THREADS; ROWS <= THREADS;
// LINES divides COLUMNS; LINES * WIDE <= HALF and is THREADS times 1 to 4; HEAD_QUADS <= WIDE.

const ACROSS: u32 = 8u; // tile: invocations along the keys, and along the channels
const DOWN: u32 = 8u; // tile: invocations along the queries
const RUN: u32 = 2u; // tile: quads of queries an invocation
const KEYS: u32 = 2u; // tile: quads of keys an invocation
const QUADS: u32 = 2u; // tile: quads of the head an invocation
const DEPTH: u32 = 2u; // tile: quads of channels a step
const LINES: u32 = 16u; // tile: keys a step of ds k
const THREADS: u32 = ACROSS * DOWN;
const ROW_QUADS: u32 = DOWN * RUN;
const ROWS: u32 = 4u * ROW_QUADS;
const COLUMN_QUADS: u32 = ACROSS * KEYS;
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
@group(0) @binding(1) var<storage, read> out: array<vec4f>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;

// [half], then rows and columns [channel of a quad, quad, queries or keys], or lines [key, quad]
var<workgroup> staged: array<vec4f, 2u * HALF>;
var<workgroup> shares: array<vec4f, COLUMNS * SHARE_PITCH>; // [key, queries]: p, then ds
var<workgroup> row_lse: array<f32, ROWS>;
var<workgroup> row_delta: array<f32, ROWS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3u) {
  let first_query = group.x * ROWS;
  let token = HEADS * 3u * HEAD_QUADS;
  let q_start = (group.y / HEADS) * TOKENS * token + (group.y % HEADS) * 3u * HEAD_QUADS;
  let k_start = q_start + HEAD_QUADS;
  let v_start = k_start + HEAD_QUADS;
  let answer = HEADS * HEAD_QUADS;
  let answer_start = (group.y / HEADS) * QUERIES * answer + (group.y % HEADS) * HEAD_QUADS;
  let down = local % DOWN;
  let across = local / DOWN;

  if (local < ROWS) {
    let query = min(first_query + local, QUERIES - 1u);
    var sum = 0.0;
    for (var d = 0u; d < HEAD_QUADS; d++) {
      sum += dot(d_out[answer_start + query * answer + d], out[answer_start + query * answer + d]);
    }
    row_delta[local] = sum;
    row_lse[local] = lse[group.y * QUERIES + query];
    if (first_query + local < QUERIES) {
      delta[group.y * QUERIES + query] = sum;
    }
  }

  // What this invocation stages of each step of q k^T and d_out v^T: four queries, or four keys, times a quad.
  let stages_rows = local < DEPTH * ROW_QUADS;
  let stages = local < DEPTH * (ROW_QUADS + COLUMN_QUADS);
  let own_quad = local % DEPTH;
  let own_four = select(local - DEPTH * ROW_QUADS, local, stages_rows) / DEPTH;
  let own_pitch = select(COLUMN_PITCH, ROW_PITCH, stages_rows);
  let own_place = select(COLUMNS_AT, 0u, stages_rows) + own_quad * own_pitch + own_four;

  var scores: array<vec4f, 4u * KEYS * RUN>; // of a key, four queries each: of q k^T, then of d_out v^T
  var sums: array<vec4f, 4u * RUN * QUADS>; // of a query, a quad of the head each
  for (var a = 0u; a < RUN; a++) {
    for (var j = 0u; j < 4u * KEYS; j++) {
      scores[j * RUN + a] = vec4f();
    }
    for (var i = 0u; i < 4u * QUADS; i++) {
      sums[i * RUN + a] = vec4f();
    }
  }

  let round = (HEAD_QUADS + DEPTH - 1u) / DEPTH; // steps of each of the first two
  let tile_steps = 2u * round + LINE_STEPS;
  // Queries that nobody asks take none.
  let steps = select((TOKENS + COLUMNS - 1u) / COLUMNS * tile_steps, 0u, first_query >= QUERIES);
  var next_key = 0u; // the first of the tile that the next step belongs to
  var next_step = 0u; // of the tile
  var first_key = 0u; // the same of the step that is multiplied
  var now = 0u;
  for (var step = 0u; step <= steps; step++) {
    let there = step % 2u * HALF; // where the next step goes
    let here = HALF - there;

    var next: array<vec4f, 4u>;
    if (step < steps) {
      if (next_step < 2u * round) {
        let second = next_step >= round;
        let quad = select(next_step, next_step - round, second) * DEPTH + own_quad;
        let token0 = select(next_key, first_query, stages_rows) + own_four * 4u;
        let last = select(TOKENS, QUERIES, stages_rows) - 1u;
        let present = quad < HEAD_QUADS && stages;
        for (var i = 0u; i < 4u; i++) {
          next[i] = vec4f();
        }
        if (present && stages_rows && second) {
          for (var i = 0u; i < 4u; i++) {
            next[i] = d_out[answer_start + min(token0 + i, last) * answer + quad];
          }
        } else if (present) {
          let start = select(select(k_start, v_start, second), q_start, stages_rows) + quad;
          for (var i = 0u; i < 4u; i++) {
            next[i] = qkv[start + min(token0 + i, last) * token];
          }
        }
      } else {
        let key0 = next_key + (next_step - 2u * round) * LINES;
        for (var s = 0u; s < LINE_LOADS; s++) {
          let entry = local + s * THREADS;
          let key = min(key0 + entry / WIDE, TOKENS - 1u);
          next[s] = qkv[k_start + key * token + min(entry % WIDE, HEAD_QUADS - 1u)];
        }
      }
    }

    if (step > 0u && now < 2u * round) {
      let depth = min(DEPTH, HEAD_QUADS - select(now, now - round, now >= round) * DEPTH);
      for (var d = 0u; d < depth; d++) {
        for (var c = 0u; c < 4u; c++) {
          let rows_at = here + (c * DEPTH + d) * ROW_PITCH + down;
          let columns_at = here + COLUMNS_AT + (c * DEPTH + d) * COLUMN_PITCH + across;
          var rows: array<vec4f, RUN>;
          for (var a = 0u; a < RUN; a++) {
            rows[a] = staged[rows_at + a * DOWN];
          }
          for (var j = 0u; j < KEYS; j++) {
            let keys = staged[columns_at + j * ACROSS];
            for (var a = 0u; a < RUN; a++) {
              scores[(4u * j) * RUN + a] = fma(rows[a], vec4f(keys.x), scores[(4u * j) * RUN + a]);
              scores[(4u * j + 1u) * RUN + a] = fma(rows[a], vec4f(keys.y), scores[(4u * j + 1u) * RUN + a]);
              scores[(4u * j + 2u) * RUN + a] = fma(rows[a], vec4f(keys.z), scores[(4u * j + 2u) * RUN + a]);
              scores[(4u * j + 3u) * RUN + a] = fma(rows[a], vec4f(keys.w), scores[(4u * j + 3u) * RUN + a]);
            }
          }
        }
      }
      if (now + 1u == round) {
        for (var a = 0u; a < RUN; a++) {
          let row = (a * DOWN + down) * 4u;
          let subtract = vec4f(row_lse[row], row_lse[row + 1u], row_lse[row + 2u], row_lse[row + 3u]);
          for (var j = 0u; j < KEYS; j++) {
            for (var c = 0u; c < 4u; c++) {
              let key = (j * ACROSS + across) * 4u + c;
              let p = exp(fma(scores[(4u * j + c) * RUN + a], vec4f(SCALE), -subtract));
              shares[key * SHARE_PITCH + a * DOWN + down] = select(vec4f(), p, first_key + key < TOKENS);
              scores[(4u * j + c) * RUN + a] = vec4f();
            }
          }
        }
      } else if (now + 1u == 2u * round) {
        for (var a = 0u; a < RUN; a++) {
          let row = (a * DOWN + down) * 4u;
          let subtract = vec4f(row_delta[row], row_delta[row + 1u], row_delta[row + 2u], row_delta[row + 3u]);
          for (var j = 0u; j < KEYS; j++) {
            for (var c = 0u; c < 4u; c++) {
              let at = ((j * ACROSS + across) * 4u + c) * SHARE_PITCH + a * DOWN + down;
              shares[at] *= scores[(4u * j + c) * RUN + a] - subtract;
              scores[(4u * j + c) * RUN + a] = vec4f();
            }
          }
        }
      }
    } else if (step > 0u) {
      let line0 = (now - 2u * round) * LINES;
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
      if (next_step >= 2u * round) {
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
    }
    workgroupBarrier();

    first_key = next_key;
    now = next_step;
    next_step++;
    if (next_step == tile_steps) {
      next_step = 0u;
      next_key += COLUMNS;
    }
  }

  // A query too many repeats the last and is stored there again: a branch a store is what compilers take most time for.
  for (var d = 0u; d < QUADS; d++) {
    let quad = d * ACROSS + across;
    if (quad < HEAD_QUADS) {
      for (var a = 0u; a < RUN; a++) {
        for (var c = 0u; c < 4u; c++) {
          let query = min(first_query + (a * DOWN + down) * 4u + c, TOKENS - 1u);
          d_qkv[q_start + query * token + quad] = select(vec4f(), sums[(4u * d + c) * RUN + a] * SCALE, query < QUERIES);
        }
      }
    }
  }
}
