// Convolution as a matrix product, with tiles of both factors staged in workgroup memory (implicit GEMM). Also linear layers:
// a row is a pixel of an image one pixel high. Also Winograd's products: POINTS matrices, each with tiles of its own.
//
//   y[p, o] = bias[o] + residual[p, o] + sum over taps t and i of w[o, t, i] * x[pixel p moved by t, i]
//
// p counts output pixels over all images. x [N, HEIGHT, WIDTH, IN_QUADS], y and residual [PIXELS, OUT_QUADS] of vec4f, bias
// [OUT_QUADS]; weights [OUT_QUADS, KERNEL * KERNEL, IN_QUADS] of mat4x4f, a column per input channel. X_SHIFT is 1 where x is
// stored at half the size and stands for its nearest-neighbour enlargement, else 0; RESIDUAL_SHIFT the same for the residual.
//
// A workgroup makes ACROSS * RUN pixels times DOWN * QUADS channel quads. It goes in steps of DEPTH quads of input and one tap,
// the taps of the same inputs one after another. While its invocations multiply what they staged in one half of workgroup
// memory, the values of the next step are on their way to registers, and then go into the other half: one barrier a step.
// 32 neighbours make 8 runs of pixels times 4 runs of quads, so that they read few different places of workgroup memory at a
// time; and any invocation reads the same place as the next one, or as the next but one, which NVIDIA's GPUs make into one read.
// What lies beyond an edge is staged as zero, so that all invocations meet at every barrier.
// workgroup_id: pixel tiles, quad tiles, and along z points and parts of the input channels.
//
// With more than one part, y is [parts, POINTS, PIXELS, OUT_QUADS] and sum_parts.wgsl adds them; BIAS and RESIDUAL are 0.
// With more than one point x is [POINTS, PIXELS, IN_QUADS], weights [OUT_QUADS, POINTS, IN_QUADS], y [POINTS, PIXELS, OUT_QUADS].
// Host checks: PIXELS = N * OUT_HEIGHT * OUT_WIDTH; PART is a multiple of DEPTH, and PART times the parts reaches IN_QUADS;
// ACROSS is a multiple of 8 and DOWN of 4; ACROSS * DOWN divides both staged tiles; with points, KERNEL, STRIDE and HEIGHT are 1.
// BIAS and RESIDUAL are 1 or 0.

const ACROSS: u32 = 8u; // tile: invocations along the pixels
const DOWN: u32 = 8u; // tile: invocations along the channels
const RUN: u32 = 8u; // tile: pixels an invocation
const QUADS: u32 = 2u; // tile: output channel quads an invocation
const DEPTH: u32 = 2u; // tile: quads of input channels a step
const KERNEL: u32 = 3u; // tile: taps in each direction, 1 or 3
const STRIDE: u32 = 1u; // tile: 1 or 2
const PAD: u32 = (KERNEL - 1u) / 2u;
const TAPS: u32 = KERNEL * KERNEL;
const THREADS: u32 = ACROSS * DOWN;
const ROW: u32 = ACROSS * RUN;
const COLUMN: u32 = DOWN * QUADS;
const X_LOADS: u32 = ROW * DEPTH / THREADS;
const W_LOADS: u32 = 4u * COLUMN * DEPTH / THREADS;
const X_PITCH: u32 = ROW + 8u / DEPTH; // so that what 8 neighbours stage falls into different banks
const W_PITCH: u32 = COLUMN + 1u;
const X_HALF: u32 = DEPTH * X_PITCH;
const W_HALF: u32 = 4u * DEPTH * W_PITCH;

override HEIGHT: u32;
override WIDTH: u32;
override IN_QUADS: u32;
override PIXELS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override OUT_QUADS: u32;
override POINTS: u32;
override PART: u32;
override BIAS: u32;
override RESIDUAL: u32;
override X_SHIFT: u32;
override RESIDUAL_SHIFT: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

var<workgroup> staged_x: array<vec4f, 2u * X_HALF>; // [half, quad, pixel]
var<workgroup> staged_w: array<vec4f, 2u * W_HALF>; // [half, quad, column of the block, output quad]

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3u) {
  let first_pixel = group.x * ROW;
  let first_quad = group.y * COLUMN;
  let point = group.z % POINTS;
  let first_part = group.z / POINTS * PART;
  let part_end = min(first_part + PART, IN_QUADS);
  let own_pixel = local / 2u % 8u + local / 32u % (ACROSS / 8u) * 8u;
  let own_quad = local % 2u + local / 16u % 2u * 2u + local / 32u / (ACROSS / 8u) * 4u;

  // What this invocation stages of each step: a quad of input of some pixels, and a column of some blocks.
  let x_depth = local % DEPTH;
  let x_slot = local / DEPTH;
  var top: array<i32, X_LOADS>; // where the kernel of each staged pixel begins
  var left: array<i32, X_LOADS>;
  var image: array<u32, X_LOADS>;
  for (var s = 0u; s < X_LOADS; s++) {
    let pixel = min(first_pixel + x_slot + s * (THREADS / DEPTH), PIXELS - 1u);
    let row = pixel / OUT_WIDTH;
    top[s] = i32(row % OUT_HEIGHT * STRIDE) - i32(PAD);
    left[s] = i32(pixel % OUT_WIDTH * STRIDE) - i32(PAD);
    image[s] = (row / OUT_HEIGHT + point) * (HEIGHT >> X_SHIFT);
  }
  let w_column = local % 4u;
  var kernel: array<u32, W_LOADS>;
  var w_depth: array<u32, W_LOADS>;
  for (var s = 0u; s < W_LOADS; s++) {
    let entry = local / 4u + s * (THREADS / 4u);
    w_depth[s] = entry % DEPTH;
    kernel[s] = min(first_quad + entry / DEPTH, OUT_QUADS - 1u) * (TAPS * POINTS) + point;
  }

  var sums: array<vec4f, RUN * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    for (var r = 0u; r < RUN; r++) {
      sums[q * RUN + r] = vec4f();
    }
  }

  let steps = (part_end - first_part + DEPTH - 1u) / DEPTH * TAPS;
  for (var step = 0u; step <= steps; step++) {
    var next_x: array<vec4f, X_LOADS>;
    var next_w: array<vec4f, W_LOADS>;
    if (step < steps) {
      let tap = step % TAPS;
      let first = first_part + step / TAPS * DEPTH;
      let x_quad = first + x_depth;
      for (var s = 0u; s < X_LOADS; s++) {
        let iy = u32(top[s] + i32(tap / KERNEL));
        let ix = u32(left[s] + i32(tap % KERNEL));
        let inside = iy < HEIGHT && ix < WIDTH && x_quad < part_end;
        let at = ((image[s] + (iy >> X_SHIFT)) * (WIDTH >> X_SHIFT) + (ix >> X_SHIFT)) * IN_QUADS + x_quad;
        next_x[s] = select(vec4f(), x[select(0u, at, inside)], inside);
      }
      for (var s = 0u; s < W_LOADS; s++) {
        let w_quad = min(first + w_depth[s], IN_QUADS - 1u);
        next_w[s] = weights[(kernel[s] + tap) * IN_QUADS + w_quad][w_column];
      }
    }
    if (step > 0u) {
      let half = (step + 1u) % 2u;
      for (var k = 0u; k < DEPTH; k++) {
        let x_at = half * X_HALF + k * X_PITCH + own_pixel;
        var line: array<vec4f, RUN>;
        for (var r = 0u; r < RUN; r++) {
          line[r] = staged_x[x_at + r * ACROSS];
        }
        for (var q = 0u; q < QUADS; q++) {
          let w_at = half * W_HALF + 4u * k * W_PITCH + q * DOWN + own_quad;
          let w0 = staged_w[w_at];
          let w1 = staged_w[w_at + W_PITCH];
          let w2 = staged_w[w_at + 2u * W_PITCH];
          let w3 = staged_w[w_at + 3u * W_PITCH];
          for (var r = 0u; r < RUN; r++) {
            sums[q * RUN + r] = fma(vec4f(line[r].x), w0, sums[q * RUN + r]);
            sums[q * RUN + r] = fma(vec4f(line[r].y), w1, sums[q * RUN + r]);
            sums[q * RUN + r] = fma(vec4f(line[r].z), w2, sums[q * RUN + r]);
            sums[q * RUN + r] = fma(vec4f(line[r].w), w3, sums[q * RUN + r]);
          }
        }
      }
    }
    if (step < steps) {
      let half = step % 2u;
      for (var s = 0u; s < X_LOADS; s++) {
        staged_x[half * X_HALF + x_depth * X_PITCH + x_slot + s * (THREADS / DEPTH)] = next_x[s];
      }
      for (var s = 0u; s < W_LOADS; s++) {
        let entry = local / 4u + s * (THREADS / 4u);
        staged_w[half * W_HALF + (4u * w_depth[s] + w_column) * W_PITCH + entry / DEPTH] = next_w[s];
      }
    }
    workgroupBarrier();
  }

  for (var r = 0u; r < RUN; r++) {
    let pixel = first_pixel + r * ACROSS + own_pixel;
    let row = pixel / OUT_WIDTH;
    let residual_row = (row / OUT_HEIGHT) * (OUT_HEIGHT >> RESIDUAL_SHIFT) + ((row % OUT_HEIGHT) >> RESIDUAL_SHIFT);
    let residual_pixel = residual_row * (OUT_WIDTH >> RESIDUAL_SHIFT) + ((pixel % OUT_WIDTH) >> RESIDUAL_SHIFT);
    for (var q = 0u; q < QUADS; q++) {
      let quad = first_quad + q * DOWN + own_quad;
      if (quad < OUT_QUADS && pixel < PIXELS) {
        var result = sums[q * RUN + r];
        if (BIAS == 1u) {
          result += bias[quad];
        }
        if (RESIDUAL == 1u) {
          result += residual[residual_pixel * OUT_QUADS + quad];
        }
        y[(group.z * PIXELS + pixel) * OUT_QUADS + quad] = result;
      }
    }
  }
}
