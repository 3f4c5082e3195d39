// Copies channels between tensors with the same pixels: two parts of a concatenation, or a slice of one.
//
//   y[r, TO + q] = x[r, FROM + q]           for every pixel r and quad q < COUNT
//   y[r, TO + COUNT + q] = more[r, q]       for q < MORE
//
// x [ROWS, X_QUADS], more [ROWS, MORE], y [ROWS, Y_QUADS] of vec4f. One invocation a quad. With MORE 0 nothing reads `more`.
// Host checks: channel counts and offsets are multiples of 4, FROM + COUNT <= X_QUADS, TO + COUNT + MORE <= Y_QUADS.

override ROWS: u32;
override COUNT: u32;
override MORE: u32;
override X_QUADS: u32;
override Y_QUADS: u32;
override FROM: u32;
override TO: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> more: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let width = COUNT + MORE;
  let quad = index % width;
  let row = index / width;
  if (row >= ROWS) {
    return;
  }
  let at = row * Y_QUADS + TO + quad;
  if (quad < COUNT) {
    y[at] = x[row * X_QUADS + FROM + quad];
  } else {
    y[at] = more[row * MORE + quad - COUNT];
  }
}
