// Convolution with stride 2: gradient with respect to the input.
//
//   dx[n, iy, ix, i] = sum over ky, kx, o of w[o, i, ky, kx] * dy[n, (iy + PAD - ky) / 2, (ix + PAD - kx) / 2, o]
//                      over the taps for which both divisions leave no remainder
//
// Which taps those are depends only on the parity of iy and ix: 1, 2, 2 and 4 of the 9 taps of a 3 x 3 kernel. So each
// parity class is a small dense convolution, and no zero is ever multiplied.
//
// dy [N, OUT_HEIGHT, OUT_WIDTH, OUT_QUADS], dx and residual [N, HEIGHT, WIDTH, IN_QUADS] of vec4f, weights as the forward
// pass has them but transposed: [IN_QUADS, KERNEL * KERNEL, OUT_QUADS] of mat4x4f, a column per output channel, taps in
// the forward order.
//
// One invocation makes PIXELS pixels of one row and one column parity (ix, ix + 2, ...) times QUADS channel quads. id.x
// counts tiles of a row of each parity, id.y quad tiles, id.z the column's parity.
// Host checks: ROWS = N * HEIGHT.
// RESIDUAL is 1 or 0.

const PIXELS: u32 = 4u; // tile: input pixels an invocation
const QUADS: u32 = 2u; // tile: input channel quads an invocation
const KERNEL: u32 = 3u; // tile: taps in each direction, 1 or 3
const PAD: u32 = (KERNEL - 1u) / 2u;

override HEIGHT: u32;
override WIDTH: u32;
override ROWS: u32;
override IN_QUADS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override OUT_QUADS: u32;
override RESIDUAL: u32;
override THREADS_X: u32 = 8u;
override THREADS_Y: u32 = 8u;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let parity = id.z;
  let tiles = ((WIDTH + 1u) / 2u + PIXELS - 1u) / PIXELS;
  let row = id.x / tiles;
  let first_quad = id.y * QUADS;
  if (row >= ROWS || first_quad >= IN_QUADS) {
    return;
  }
  let iy = row % HEIGHT;
  let image_row = row / HEIGHT * OUT_HEIGHT;
  let first = id.x % tiles * PIXELS; // in pixels of this parity
  let last_column = i32(OUT_WIDTH) - 1;

  var kernel: array<u32, QUADS>;
  var sums: array<vec4f, PIXELS * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    kernel[q] = min(first_quad + q, IN_QUADS - 1u) * (KERNEL * KERNEL * OUT_QUADS);
    for (var p = 0u; p < PIXELS; p++) {
      sums[q * PIXELS + p] = vec4f();
    }
  }

  for (var ky = (iy + PAD) % 2u; ky < KERNEL; ky += 2u) {
    let oy = (i32(iy + PAD) - i32(ky)) / 2;
    if (oy < 0 || oy >= i32(OUT_HEIGHT)) {
      continue;
    }
    for (var kx = (parity + PAD) % 2u; kx < KERNEL; kx += 2u) {
      let ox_first = i32(first) + (i32(parity + PAD) - i32(kx)) / 2;
      for (var c = 0u; c < OUT_QUADS; c++) {
        var line: array<vec4f, PIXELS>;
        for (var p = 0u; p < PIXELS; p++) {
          let ox = ox_first + i32(p);
          let column = u32(clamp(ox, 0, last_column));
          let value = dy[((image_row + u32(oy)) * OUT_WIDTH + column) * OUT_QUADS + c];
          line[p] = select(vec4f(), value, ox >= 0 && ox <= last_column);
        }
        let tap = (ky * KERNEL + kx) * OUT_QUADS + c;
        for (var q = 0u; q < QUADS; q++) {
          let w = weights[kernel[q] + tap];
          for (var p = 0u; p < PIXELS; p++) {
            sums[q * PIXELS + p] += w * line[p];
          }
        }
      }
    }
  }

  for (var q = 0u; q < QUADS; q++) {
    for (var p = 0u; p < PIXELS; p++) {
      let ix = (first + p) * 2u + parity;
      if (first_quad + q < IN_QUADS && ix < WIDTH) {
        let at = (row * WIDTH + ix) * IN_QUADS + first_quad + q;
        if (RESIDUAL == 1u) {
          dx[at] = sums[q * PIXELS + p] + residual[at];
        } else {
          dx[at] = sums[q * PIXELS + p];
        }
      }
    }
  }
}
