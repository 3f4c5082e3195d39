// Copies channels between tensors with the same pixels: one half of a concatenation, or a slice of one.
//
//   y[r, TO + q] = x[r, FROM + q]        for every pixel r and quad q < COUNT
//
// x [ROWS, X_QUADS], y [ROWS, Y_QUADS] of vec4f. One invocation a quad.
// Host checks: channel counts and offsets are multiples of 4, FROM + COUNT <= X_QUADS, TO + COUNT <= Y_QUADS.

override ROWS: u32;
override COUNT: u32;
override X_QUADS: u32;
override Y_QUADS: u32;
override FROM: u32;
override TO: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let quad = index % COUNT;
  let row = index / COUNT;
  if (row < ROWS) {
    y[row * Y_QUADS + TO + quad] = x[row * X_QUADS + FROM + quad];
  }
}
