// workgroup.wgsl with arithmetic in float16, for adapters with the feature "shader-f16".
//
//   y[p, o] = bias[o] + residual[p, o] + sum over taps t and i of w[o, t, i] * x[pixel p moved by t, i]
//
// Weights and staged inputs are float16. The products of DEPTH quads of input, 16 terms, are summed in float16; these sums go
// to float32 accumulators, since a sum over all channels and taps would overflow and lose its last bits. Inputs beyond the
// range of float16 are clamped to it. A result's relative error is about 5e-4; test/kernels holds it to 2e-3.
//
// Sizes, layouts, parts, the way work is shared and what the host checks are those of workgroup.wgsl, except weights:
// [OUT_QUADS, KERNEL * KERNEL, IN_QUADS] of mat4x4h, the packed format f16 as it is (src/runtime/weight_formats.ts).

enable f16;

const ACROSS: u32 = 8u; // tile: invocations along the pixels
const DOWN: u32 = 8u; // tile: invocations along the channels
const RUN: u32 = 8u; // tile: pixels an invocation
const QUADS: u32 = 2u; // tile: output channel quads an invocation
const KERNEL: u32 = 3u; // tile: taps in each direction, 1 or 3
const STRIDE: u32 = 1u; // tile: 1 or 2
const DEPTH: u32 = 4u;
const PAD: u32 = (KERNEL - 1u) / 2u;
const THREADS: u32 = ACROSS * DOWN;
const ROW: u32 = ACROSS * RUN;
const COLUMN: u32 = DOWN * QUADS;
const X_LOADS: u32 = ROW * DEPTH / THREADS;
const W_LOADS: u32 = COLUMN * DEPTH / THREADS;
const LARGEST = 65504.0; // of float16
const PITCH: u32 = ROW + 1u; // so that stores of one pixel's quads fall into different banks

override HEIGHT: u32;
override WIDTH: u32;
override IN_QUADS: u32;
override PIXELS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override OUT_QUADS: u32;
override PART: u32;
override BIAS: u32;
override RESIDUAL: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<mat4x4h>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

var<workgroup> staged_x: array<vec4h, DEPTH * PITCH>; // [quad, pixel]
var<workgroup> staged_w: array<vec4h, DEPTH * 4u * COLUMN>; // [quad, column of the block, output quad]

@compute @workgroup_size(ACROSS, DOWN)
fn main(
  @builtin(local_invocation_id) own: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(workgroup_id) group: vec3u,
) {
  let first_pixel = group.x * ROW;
  let first_quad = group.y * COLUMN;
  let depth = local % DEPTH; // the quad of each step that this invocation stages
  let slot = local / DEPTH;

  var top: array<i32, X_LOADS>; // where the kernel of each staged pixel begins
  var left: array<i32, X_LOADS>;
  var image: array<u32, X_LOADS>;
  for (var s = 0u; s < X_LOADS; s++) {
    let pixel = min(first_pixel + slot + s * (THREADS / DEPTH), PIXELS - 1u);
    let row = pixel / OUT_WIDTH;
    top[s] = i32(row % OUT_HEIGHT * STRIDE) - i32(PAD);
    left[s] = i32(pixel % OUT_WIDTH * STRIDE) - i32(PAD);
    image[s] = row / OUT_HEIGHT * HEIGHT;
  }
  var kernel: array<u32, W_LOADS>;
  for (var s = 0u; s < W_LOADS; s++) {
    kernel[s] = min(first_quad + slot + s * (THREADS / DEPTH), OUT_QUADS - 1u) * (KERNEL * KERNEL * IN_QUADS);
  }

  var sums: array<vec4f, RUN * QUADS>;
  for (var q = 0u; q < QUADS; q++) {
    for (var r = 0u; r < RUN; r++) {
      sums[q * RUN + r] = vec4f();
    }
  }

  let part_end = min((group.z + 1u) * PART, IN_QUADS);
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var source: array<u32, X_LOADS>;
    var inside: array<bool, X_LOADS>;
    for (var s = 0u; s < X_LOADS; s++) {
      let iy = top[s] + i32(tap / KERNEL);
      let ix = left[s] + i32(tap % KERNEL);
      let row = image[s] + u32(clamp(iy, 0, i32(HEIGHT) - 1));
      source[s] = (row * WIDTH + u32(clamp(ix, 0, i32(WIDTH) - 1))) * IN_QUADS;
      inside[s] = iy >= 0 && iy < i32(HEIGHT) && ix >= 0 && ix < i32(WIDTH);
    }
    for (var first = group.z * PART; first < part_end; first += DEPTH) {
      let c = min(first + depth, IN_QUADS - 1u);
      let exists = first + depth < part_end;
      workgroupBarrier();
      for (var s = 0u; s < X_LOADS; s++) {
        let value = x[source[s] + c];
        let used = select(vec4f(), value, exists && inside[s]);
        staged_x[depth * PITCH + slot + s * (THREADS / DEPTH)] =
          vec4h(clamp(used, vec4f(-LARGEST), vec4f(LARGEST)));
      }
      for (var s = 0u; s < W_LOADS; s++) {
        let w = weights[kernel[s] + tap * IN_QUADS + c];
        let at = depth * 4u * COLUMN + slot + s * (THREADS / DEPTH);
        staged_w[at] = w[0];
        staged_w[at + COLUMN] = w[1];
        staged_w[at + 2u * COLUMN] = w[2];
        staged_w[at + 3u * COLUMN] = w[3];
      }
      workgroupBarrier();
      var chunk: array<vec4h, RUN * QUADS>;
      for (var q = 0u; q < QUADS; q++) {
        for (var r = 0u; r < RUN; r++) {
          chunk[q * RUN + r] = vec4h();
        }
      }
      for (var k = 0u; k < DEPTH; k++) {
        var line: array<vec4h, RUN>;
        for (var r = 0u; r < RUN; r++) {
          line[r] = staged_x[k * PITCH + r * ACROSS + own.x];
        }
        for (var q = 0u; q < QUADS; q++) {
          let at = k * 4u * COLUMN + q * DOWN + own.y;
          let w = mat4x4h(staged_w[at], staged_w[at + COLUMN], staged_w[at + 2u * COLUMN], staged_w[at + 3u * COLUMN]);
          for (var r = 0u; r < RUN; r++) {
            chunk[q * RUN + r] += w * line[r];
          }
        }
      }
      for (var q = 0u; q < QUADS; q++) {
        for (var r = 0u; r < RUN; r++) {
          sums[q * RUN + r] += vec4f(chunk[q * RUN + r]);
        }
      }
    }
  }

  for (var q = 0u; q < QUADS; q++) {
    let quad = first_quad + q * DOWN + own.y;
    for (var r = 0u; r < RUN; r++) {
      let pixel = first_pixel + r * ACROSS + own.x;
      if (quad < OUT_QUADS && pixel < PIXELS) {
        let at = (group.z * PIXELS + pixel) * OUT_QUADS + quad;
        var result = sums[q * RUN + r];
        if (BIAS == 1u) {
          result += bias[quad];
        }
        if (RESIDUAL == 1u) {
          result += residual[at];
        }
        y[at] = result;
      }
    }
  }
}
