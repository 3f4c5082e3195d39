// Convolution with KERNEL x KERNEL taps, stride 1 or 2 and padding (KERNEL - 1) / 2, plus bias, plus an optional residual.
//
//   y[n, oy, ox, o] = bias[o] + residual[n, oy, ox, o]
//                   + sum over ky, kx, i of w[o, i, ky, kx] * x[n, oy * STRIDE + ky - PAD, ox * STRIDE + kx - PAD, i]
//
// x [N, HEIGHT, WIDTH, IN_QUADS], y and residual [N, OUT_HEIGHT, OUT_WIDTH, OUT_QUADS] of vec4f, bias [OUT_QUADS];
// weights [OUT_QUADS, KERNEL * KERNEL, IN_QUADS] of mat4x4f, a column per input channel (shaders/weights/pack_matrix.wgsl).
//
// One invocation makes PIXELS neighbours of a row times QUADS channel quads in registers, without a barrier: id.x counts
// pixel tiles, id.y quad tiles. A line of input is loaded once and serves all KERNEL horizontal taps.
// X_SHIFT is 1 where x is stored at half the size and stands for its nearest-neighbour enlargement, else 0; RESIDUAL_SHIFT
// the same for the residual. So an enlarged picture is never made.
// BIAS and RESIDUAL are 1 or 0. They are sizes, not switches: a branch outside the loops costs nothing, a pipeline does.
// Host checks: OUT_ROWS = N * OUT_HEIGHT, OUT_HEIGHT = (HEIGHT - 1) / STRIDE + 1, the same for the width.
// Saved for the backward pass: nothing. Input gradient: at stride 1 this very kernel, on transposed weights with the taps
// in reverse order; at stride 2 input_gradient_strided.wgsl.

const PIXELS: u32 = 4u; // tile: output pixels an invocation
const QUADS: u32 = 2u; // tile: output channel quads an invocation
const KERNEL: u32 = 3u; // tile: taps in each direction, 1 or 3
const STRIDE: u32 = 1u; // tile: 1 or 2
const PAD: u32 = (KERNEL - 1u) / 2u;
const LINE: u32 = (PIXELS - 1u) * STRIDE + KERNEL;

override HEIGHT: u32;
override WIDTH: u32;
override IN_QUADS: u32;
override OUT_ROWS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override OUT_QUADS: u32;
override BIAS: u32;
override RESIDUAL: u32;
override X_SHIFT: u32;
override RESIDUAL_SHIFT: u32;
override THREADS_X: u32 = 8u;
override THREADS_Y: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let tiles = (OUT_WIDTH + PIXELS - 1u) / PIXELS;
  let row = id.x / tiles;
  let first_quad = id.y * QUADS;
  if (row >= OUT_ROWS || first_quad >= OUT_QUADS) {
    return;
  }
  let ox = id.x % tiles * PIXELS;
  let image = row / OUT_HEIGHT;
  let iy_first = i32(row % OUT_HEIGHT * STRIDE) - i32(PAD);
  let ix_first = i32(ox * STRIDE) - i32(PAD);
  let last_column = i32(WIDTH) - 1;

  var kernel: array<u32, QUADS>; // where the weights of each quad begin; a quad too many repeats the last
  var sums: array<vec4f, PIXELS * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    let quad = min(first_quad + q, OUT_QUADS - 1u);
    kernel[q] = quad * (KERNEL * KERNEL * IN_QUADS);
    var start = vec4f();
    if (BIAS == 1u) {
      start = bias[quad];
    }
    for (var p = 0u; p < PIXELS; p++) {
      sums[q * PIXELS + p] = start;
    }
  }

  for (var ky = 0u; ky < KERNEL; ky++) {
    let iy = iy_first + i32(ky);
    if (iy < 0 || iy >= i32(HEIGHT)) {
      continue;
    }
    let line_start = (image * (HEIGHT >> X_SHIFT) + (u32(iy) >> X_SHIFT)) * (WIDTH >> X_SHIFT);
    for (var c = 0u; c < IN_QUADS; c++) {
      var line: array<vec4f, LINE>;
      for (var i = 0u; i < LINE; i++) {
        let ix = ix_first + i32(i);
        let value = x[(line_start + (u32(clamp(ix, 0, last_column)) >> X_SHIFT)) * IN_QUADS + c];
        line[i] = select(vec4f(), value, ix >= 0 && ix <= last_column);
      }
      let tap = ky * KERNEL * IN_QUADS + c;
      for (var kx = 0u; kx < KERNEL; kx++) {
        for (var q = 0u; q < QUADS; q++) {
          let w = weights[kernel[q] + tap + kx * IN_QUADS];
          for (var p = 0u; p < PIXELS; p++) {
            sums[q * PIXELS + p] += w * line[p * STRIDE + kx];
          }
        }
      }
    }
  }

  let residual_row = image * (OUT_HEIGHT >> RESIDUAL_SHIFT) + ((row % OUT_HEIGHT) >> RESIDUAL_SHIFT);
  for (var p = 0u; p < PIXELS; p += 1u) {
    if (ox + p < OUT_WIDTH) {
      let pixel = row * OUT_WIDTH + ox + p;
      let residual_pixel = residual_row * (OUT_WIDTH >> RESIDUAL_SHIFT) + ((ox + p) >> RESIDUAL_SHIFT);
      for (var q = 0u; q < QUADS; q++) {
        let quad = min(first_quad + q, OUT_QUADS - 1u); // one too many has the sums of the last, and stores them there again
        var value = sums[q * PIXELS + p];
        if (RESIDUAL == 1u) {
          value += residual[residual_pixel * OUT_QUADS + quad];
        }
        y[pixel * OUT_QUADS + quad] = value;
      }
    }
  }
}
