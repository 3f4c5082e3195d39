// The factors of attention by matrices: q, k and v of each head in float16, in planes of their own, tokens at equal distances.
//
//   planes[head, part, token, d] = scale * x[token, head, part, d]      scale: SCALE for part 0, else 1
//
// x [N, TOKENS, HEADS, PARTS, HEAD_QUADS] of vec4f: qkv (PARTS 3) or the gradient of the output (PARTS 1). planes [N * HEADS,
// PARTS, ROWS, DEPTH_QUADS] of four float16, two a word; what is beyond a head's width or the tokens is zero. Values beyond the
// range of float16 become its largest number. One invocation a quad.
// Host checks: ROWS >= TOKENS, DEPTH_QUADS >= HEAD_QUADS.

override TOKENS: u32;
override HEADS: u32;
override PARTS: u32;
override HEAD_QUADS: u32;
override DEPTH_QUADS: u32;
override ROWS: u32;
override COUNT: u32; // quads of all planes
override SCALE: f32;

const LARGEST = 65504.0; // of float16

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> planes: array<vec2u>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= COUNT) {
    return;
  }
  let d = index % DEPTH_QUADS;
  let token = index / DEPTH_QUADS % ROWS;
  let part = index / (DEPTH_QUADS * ROWS) % PARTS;
  let head = index / (DEPTH_QUADS * ROWS * PARTS);
  var value = vec4f();
  if (d < HEAD_QUADS && token < TOKENS) {
    let row = (head / HEADS * TOKENS + token) * HEADS + head % HEADS;
    value = x[(row * PARTS + part) * HEAD_QUADS + d] * select(1.0, SCALE, part == 0u);
    value = clamp(value, vec4f(-LARGEST), vec4f(LARGEST));
  }
  planes[index] = vec2u(pack2x16float(value.xy), pack2x16float(value.zw));
}
