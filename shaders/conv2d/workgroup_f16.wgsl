// workgroup.wgsl with arithmetic in float16, for adapters with the feature "shader-f16".
//
//   y[p, o] = bias[o] + residual[p, o] + sum over taps t and i of w[o, t, i] * x[pixel p moved by t, i]
//
// Weights and staged inputs are float16. The products of a step, DEPTH quads of input, are summed in float16; these sums go to
// float32 accumulators, since a sum over all channels and taps would overflow and lose its last bits. Inputs beyond the range
// of float16 are clamped to it. A result's relative error is about 5e-4; test/kernels holds it to 2e-3.
//
// Sizes, layouts, parts, the way work is shared and what the host checks are those of workgroup.wgsl, except weights:
// [OUT_QUADS, KERNEL * KERNEL, IN_QUADS] of mat4x4h, the packed format f16 as it is (src/runtime/weight_formats.ts).

enable f16;

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
const LARGEST = 65504.0; // of float16
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
@group(0) @binding(1) var<storage, read> weights: array<mat4x4h>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

var<workgroup> staged_x: array<vec4h, 2u * X_HALF>; // [half, quad, pixel]
var<workgroup> staged_w: array<vec4h, 2u * W_HALF>; // [half, quad, column of the block, output quad]

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
    var next_x: array<vec4h, X_LOADS>;
    var next_w: array<vec4h, W_LOADS>;
    if (step < steps) {
      let tap = step % TAPS;
      let first = first_part + step / TAPS * DEPTH;
      let x_quad = first + x_depth;
      for (var s = 0u; s < X_LOADS; s++) {
        let iy = u32(top[s] + i32(tap / KERNEL));
        let ix = u32(left[s] + i32(tap % KERNEL));
        let inside = iy < HEIGHT && ix < WIDTH && x_quad < part_end;
        let at = ((image[s] + (iy >> X_SHIFT)) * (WIDTH >> X_SHIFT) + (ix >> X_SHIFT)) * IN_QUADS + x_quad;
        let value = select(vec4f(), x[select(0u, at, inside)], inside);
        next_x[s] = vec4h(clamp(value, vec4f(-LARGEST), vec4f(LARGEST)));
      }
      for (var s = 0u; s < W_LOADS; s++) {
        let w_quad = min(first + w_depth[s], IN_QUADS - 1u);
        next_w[s] = weights[(kernel[s] + tap) * IN_QUADS + w_quad][w_column];
      }
    }
    if (step > 0u) {
      let half = (step + 1u) % 2u;
      var chunk: array<vec4h, RUN * QUADS>;
      for (var q = 0u; q < QUADS; q++) {
        for (var r = 0u; r < RUN; r++) {
          chunk[q * RUN + r] = vec4h();
        }
      }
      for (var k = 0u; k < DEPTH; k++) {
        let x_at = half * X_HALF + k * X_PITCH + own_pixel;
        var line: array<vec4h, RUN>;
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
            chunk[q * RUN + r] = fma(vec4h(line[r].x), w0, chunk[q * RUN + r]);
            chunk[q * RUN + r] = fma(vec4h(line[r].y), w1, chunk[q * RUN + r]);
            chunk[q * RUN + r] = fma(vec4h(line[r].z), w2, chunk[q * RUN + r]);
            chunk[q * RUN + r] = fma(vec4h(line[r].w), w3, chunk[q * RUN + r]);
          }
        }
      }
      for (var q = 0u; q < QUADS; q++) {
        for (var r = 0u; r < RUN; r++) {
          sums[q * RUN + r] += vec4f(chunk[q * RUN + r]);
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
