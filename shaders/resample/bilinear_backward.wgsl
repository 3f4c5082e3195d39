// Gradient of bilinear interpolation: each pixel collects from the outputs that looked at it.
//
//   dx[i] = sum over o of dy[o] * ((1 - f if i0(o) == i) + (f if i1(o) == i))        in both directions
//
// with i0, i1 and f of bilinear.wgsl. Outputs that look at pixel i lie in (i - 1/2) * R - 1/2 .. (i + 3/2) * R - 1/2 with
// R = size_out / size_in; at the first pixel from 0 on.
//
// dy [N, OUT_HEIGHT, OUT_WIDTH, CHANNEL_QUADS], dx [N, HEIGHT, WIDTH, CHANNEL_QUADS] of vec4f. One invocation a quad of dx:
// id.x counts those of a row, id.y rows, id.z images.

override HEIGHT: u32;
override WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override CHANNEL_QUADS: u32;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dx: array<vec4f>;

// The weight with which output `o` looks at input `i`.
fn weight(o: u32, i: u32, size_in: u32, size_out: u32) -> f32 {
  let s = max((f32(o) + 0.5) * (f32(size_in) / f32(size_out)) - 0.5, 0.0);
  let i0 = min(u32(s), size_in - 1u);
  let f = s - f32(i0);
  return select(0.0, 1.0 - f, i0 == i) + select(0.0, f, min(i0 + 1u, size_in - 1u) == i);
}

// The first and the last output that may look at input `i`, one too many on each side against rounding.
fn range(i: u32, size_in: u32, size_out: u32) -> vec2u {
  let ratio = f32(size_out) / f32(size_in);
  let first = max(floor((f32(i) - 0.5) * ratio - 1.5), 0.0);
  let last = min(ceil((f32(i) + 1.5) * ratio + 0.5), f32(size_out - 1u));
  return vec2u(u32(first), u32(last));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let quad = id.x % CHANNEL_QUADS;
  let ix = id.x / CHANNEL_QUADS;
  if (ix >= WIDTH) {
    return;
  }
  let rows = range(id.y, HEIGHT, OUT_HEIGHT);
  let columns = range(ix, WIDTH, OUT_WIDTH);
  var sum = vec4f();
  for (var oy = rows.x; oy <= rows.y; oy++) {
    let wy = weight(oy, id.y, HEIGHT, OUT_HEIGHT);
    for (var ox = columns.x; ox <= columns.y; ox++) {
      let wx = weight(ox, ix, WIDTH, OUT_WIDTH);
      sum += wy * wx * dy[((id.z * OUT_HEIGHT + oy) * OUT_WIDTH + ox) * CHANNEL_QUADS + quad];
    }
  }
  dx[((id.z * HEIGHT + id.y) * WIDTH + ix) * CHANNEL_QUADS + quad] = sum;
}
