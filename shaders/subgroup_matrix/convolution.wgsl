// Convolution at stride 1 and linear layers by matrices that a subgroup holds together: float16 factors, float32 sums.
//
//   y[p, o] = bias[o] + residual[p, o] + sum over taps t and i of w[o, t, i] * x[pixel p moved by t, i]
//
// x [N, HEIGHT, WIDTH, IN_QUADS], y and residual [N, HEIGHT, WIDTH, OUT_QUADS] of vec4f, bias [OUT_QUADS]; X_SHIFT is 1 where x
// is stored at half the size and stands for its nearest-neighbour enlargement, else 0; RESIDUAL_SHIFT the same for the residual.
// y, residual and bias are bound as f32, as matrices are loaded and stored.
// fragments [ceil(outs / N), CHUNKS * CHUNK, KERNEL * KERNEL] of K x N float16, a row an input channel (pack_fragments.wgsl).
// A linear layer is an image of rows of M pixels, the last of which may be incomplete: PIXELS counts those that exist.
//
// Inputs become float16, those beyond its range its largest number; weights are float16. Sums are float32. A result's relative
// error is about 5e-4; test/kernels holds it to 2e-3.
//
// A subgroup makes ROWS * COLUMNS results of M pixels times N channels; a workgroup has ACROSS subgroups along the pixels and
// DOWN along the channels. Its pixels are WIDE columns of some lines of an image. It goes in steps of CHUNK * K input channels:
// the pixels' inputs, with those around them, are staged once in workgroup memory for all taps, and those of the next step are
// on their way meanwhile. Weights come straight from storage, where every matrix lies in one piece.
// A matrix of M pixels must lie at equal distances in workgroup memory. So where WIDE is less than M, and a matrix takes more
// than one line, lines are staged without their neighbours left and right, but COPIES = 3 times, each moved by one pixel.
// Sums begin with the residual and with the bias, which comes in as a product: of ones and of the bias in two float16, whose sum
// is as good as float32. Where a tile goes beyond an edge, results pass through workgroup memory instead, where each can be left out.
// workgroup_id: pixel tiles, channel tiles, parts of the input channels.
//
// With more than one part, y is [parts, PIXELS, OUT_QUADS] and conv2d/sum_parts.wgsl adds them; BIAS and RESIDUAL are 0.
// Host checks: a subgroup has LANES invocations, and those of a workgroup follow one another; COPIES is 1, or KERNEL where
// WIDE < M; WIDE divides M; PART * parts >= CHUNKS; N is a multiple of 4; M * K + COLUMNS * DOWN * K * N <= 2 * HALF. BIAS and RESIDUAL are 1 or 0.

enable f16;
enable chromium_experimental_subgroup_matrix;
// Offsets are the same in all of a subgroup, which a compiler cannot see.
diagnostic(off, chromium.subgroup_matrix_uniformity);

const M: u32 = 16u; // tile: pixels of a matrix
const N: u32 = 16u; // tile: output channels of a matrix
const K: u32 = 16u; // tile: input channels of a product
const LANES: u32 = 32u; // tile: invocations of a subgroup
const ROWS: u32 = 4u; // tile: matrices along the pixels a subgroup
const COLUMNS: u32 = 3u; // tile: matrices along the channels a subgroup
const ACROSS: u32 = 1u; // tile: subgroups along the pixels
const DOWN: u32 = 2u; // tile: subgroups along the channels
const CHUNK: u32 = 1u; // tile: products along the input channels a step
const KERNEL: u32 = 3u; // tile: taps in each direction, 1 or 3
const WIDE: u32 = 16u; // tile: columns of the image a workgroup
const COPIES: u32 = 1u; // tile: how often a line is staged
const PAD: u32 = (KERNEL - 1u) / 2u;
const TAPS: u32 = KERNEL * KERNEL;
const SUBGROUPS: u32 = ACROSS * DOWN;
const THREADS: u32 = LANES * SUBGROUPS;
const LINES: u32 = M / WIDE; // of an image, in a matrix
const TILE_LINES: u32 = LINES * ROWS * ACROSS;
const STAGED_LINES: u32 = TILE_LINES + 2u * PAD;
const STAGED_WIDTH: u32 = WIDE + (KERNEL - COPIES) * PAD;
const COPY: u32 = STAGED_LINES * STAGED_WIDTH; // pixels
const DEPTH: u32 = CHUNK * K / 4u; // quads of a step
const LOADS: u32 = (COPIES * COPY * DEPTH + THREADS - 1u) / THREADS;
const PITCH: u32 = 4u * DEPTH + 8u; // so that the rows of a matrix fall into different banks
const HALF: u32 = (LOADS * THREADS + DEPTH - 1u) / DEPTH * PITCH;
const STEPS: u32 = TAPS * CHUNK;
const LARGEST = 65504.0; // of float16

alias Left = subgroup_matrix_left<f16, K, M>;
alias Right = subgroup_matrix_right<f16, N, K>;
alias Sum = subgroup_matrix_result<f32, N, M>;

override HEIGHT: u32;
override WIDTH: u32;
override PIXELS: u32;
override IN_QUADS: u32;
override OUT_QUADS: u32;
override CHUNKS: u32;
override PART: u32;
override BIAS: u32;
override RESIDUAL: u32;
override X_SHIFT: u32;
override RESIDUAL_SHIFT: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> fragments: array<f16>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

var<workgroup> staged: array<f16, 2u * HALF>; // [half, copy, line, column, channel]
var<workgroup> results: array<f32, 2u * SUBGROUPS * M * N>; // [half, subgroup, pixel, channel]

// A lane's share of a result in workgroup memory goes to y, as far as it exists.
fn put(lane: u32, result: u32, image: u32, line: u32, column: u32, first_channel: u32, part: u32) {
  for (var e = lane; e < M * N; e += LANES) {
    let own_line = line + e / N / WIDE;
    let own_column = column + e / N % WIDE;
    let channel = first_channel + e % N;
    let pixel = (image * HEIGHT + own_line) * WIDTH + own_column;
    if (own_line < HEIGHT && own_column < WIDTH && pixel < PIXELS && channel < 4u * OUT_QUADS) {
      var value = results[result + e];
      if (RESIDUAL == 1u) {
        let stored_line = image * (HEIGHT >> RESIDUAL_SHIFT) + (own_line >> RESIDUAL_SHIFT);
        let stored_pixel = stored_line * (WIDTH >> RESIDUAL_SHIFT) + (own_column >> RESIDUAL_SHIFT);
        value += residual[stored_pixel * (4u * OUT_QUADS) + channel];
      }
      y[(part * PIXELS + pixel) * (4u * OUT_QUADS) + channel] = value;
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3u) {
  let subgroup = local / LANES;
  let across = (WIDTH + WIDE - 1u) / WIDE;
  let down = (HEIGHT + TILE_LINES - 1u) / TILE_LINES;
  let first_column = group.x % across * WIDE;
  let first_line = group.x / across % down * TILE_LINES;
  let image = group.x / (across * down);
  let own_line = subgroup % ACROSS * (ROWS * LINES);
  let first_matrix = (group.y * DOWN + subgroup / ACROSS) * COLUMNS; // along the output channels
  let last_matrix = (4u * OUT_QUADS + N - 1u) / N - 1u;
  let first_chunk = group.z * PART;
  let chunks = min(first_chunk + PART, CHUNKS) - first_chunk;

  var place: array<u32, LOADS>; // where each of the staged quads lies in x
  var inside: array<bool, LOADS>;
  for (var l = 0u; l < LOADS; l++) {
    let pixel = (local + l * THREADS) / DEPTH;
    let iy = first_line + pixel % COPY / STAGED_WIDTH - PAD;
    let ix = first_column + pixel % STAGED_WIDTH + pixel / COPY - PAD;
    inside[l] = pixel < COPIES * COPY && iy < HEIGHT && ix < WIDTH && (image * HEIGHT + iy) * WIDTH + ix < PIXELS;
    let stored_pixel = (image * (HEIGHT >> X_SHIFT) + (iy >> X_SHIFT)) * (WIDTH >> X_SHIFT) + (ix >> X_SHIFT);
    place[l] = stored_pixel * IN_QUADS + local % DEPTH;
  }
  var kernel: array<u32, COLUMNS>; // the first matrix of weights of each column
  for (var q = 0u; q < COLUMNS; q++) {
    kernel[q] = min(first_matrix + q, last_matrix) * (TAPS * CHUNKS * CHUNK);
  }

  // Whether each result lies in y as a matrix does: lines of pixels at equal distances, all of them there.
  let channels = 4u * OUT_QUADS;
  let lies_even = (WIDE == M || WIDE == WIDTH) && first_column + WIDE <= WIDTH && first_line + TILE_LINES <= HEIGHT;
  let first_pixel = (image * HEIGHT + first_line) * WIDTH + first_column;
  let whole = lies_even && (RESIDUAL == 0u || RESIDUAL_SHIFT == 0u) && (group.y + 1u) * (DOWN * COLUMNS * N) <= channels
    && first_pixel - first_column + TILE_LINES * WIDTH <= PIXELS;
  let own = (first_pixel + own_line * WIDTH) * channels + first_matrix * N;

  var sums: array<Sum, ROWS * COLUMNS>;
  for (var f = 0u; f < ROWS * COLUMNS; f++) {
    if (RESIDUAL == 1u && whole) {
      let at = own + f / COLUMNS * LINES * WIDTH * channels + f % COLUMNS * N;
      sums[f] = subgroupMatrixLoad<Sum, row_major>(&residual, at, channels);
    } else {
      sums[f] = Sum();
    }
  }
  if (BIAS == 1u) {
    for (var e = local; e < M * K; e += THREADS) {
      staged[e] = select(0.0h, 1.0h, e % K < 2u);
    }
    for (var e = local; e < COLUMNS * DOWN * K * N; e += THREADS) {
      let channel = (group.y * DOWN * COLUMNS + e / (K * N)) * N + e % N;
      let value = select(0.0, bias[min(channel, channels - 1u)], channel < channels);
      let high = f16(value);
      let rest = select(0.0h, f16(value - f32(high)), e / N % K == 1u);
      staged[M * K + e] = select(rest, high, e / N % K == 0u);
    }
    workgroupBarrier();
    let ones = subgroupMatrixLoad<Left, row_major>(&staged, 0u, K);
    for (var q = 0u; q < COLUMNS; q++) {
      let at = M * K + (subgroup / ACROSS * COLUMNS + q) * (K * N);
      let biases = subgroupMatrixLoad<Right, row_major>(&staged, at, N);
      for (var r = 0u; r < ROWS; r++) {
        sums[r * COLUMNS + q] = subgroupMatrixMultiplyAccumulate(ones, biases, sums[r * COLUMNS + q]);
      }
    }
    workgroupBarrier();
  }

  for (var step = 0u; step <= chunks; step++) {
    var next: array<vec4f, LOADS>;
    if (step < chunks) {
      let quad = (first_chunk + step) * DEPTH;
      for (var l = 0u; l < LOADS; l++) {
        let exists = inside[l] && quad + local % DEPTH < IN_QUADS;
        next[l] = select(vec4f(), x[select(0u, place[l] + quad, exists)], exists);
      }
    }
    if (step > 0u) {
      let half = (step + 1u) % 2u * HALF;
      let chunk = (first_chunk + step - 1u) * (CHUNK * TAPS); // its first matrix of weights
      var shift: array<u32, STEPS>; // of the inputs of each tap
      for (var s = 0u; s < STEPS; s++) {
        let tap = s / CHUNK;
        let moved = tap / KERNEL * STAGED_WIDTH + tap % KERNEL * select(1u, COPY, COPIES > 1u);
        shift[s] = half + (own_line * STAGED_WIDTH + moved) * PITCH + s % CHUNK * K;
        var left: array<Left, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
          left[r] = subgroupMatrixLoad<Left, row_major>(&staged, shift[s] + r * (LINES * STAGED_WIDTH * PITCH), PITCH);
        }
        var right: array<Right, COLUMNS>;
        for (var q = 0u; q < COLUMNS; q++) {
          let matrix = kernel[q] + chunk + (s % CHUNK * TAPS + tap);
          right[q] = subgroupMatrixLoad<Right, row_major>(&fragments, matrix * (K * N), N);
        }
        for (var r = 0u; r < ROWS; r++) {
          for (var q = 0u; q < COLUMNS; q++) {
            sums[r * COLUMNS + q] = subgroupMatrixMultiplyAccumulate(left[r], right[q], sums[r * COLUMNS + q]);
          }
        }
      }
    }
    if (step < chunks) {
      for (var l = 0u; l < LOADS; l++) {
        let value = vec4h(clamp(next[l], vec4f(-LARGEST), vec4f(LARGEST)));
        let at = step % 2u * HALF + (local + l * THREADS) / DEPTH * PITCH + local % DEPTH * 4u;
        staged[at] = value.x;
        staged[at + 1u] = value.y;
        staged[at + 2u] = value.z;
        staged[at + 3u] = value.w;
      }
    }
    workgroupBarrier();
  }

  for (var f = 0u; f < ROWS * COLUMNS; f++) {
    let result = (f % 2u * SUBGROUPS + subgroup) * (M * N);
    if (whole) {
      let at = own + (group.z * PIXELS + f / COLUMNS * LINES * WIDTH) * channels + f % COLUMNS * N;
      subgroupMatrixStore<row_major>(&y, at, sums[f], channels);
    } else {
      subgroupMatrixStore<row_major>(&results, result, sums[f], N);
      workgroupBarrier();
      let line = first_line + own_line + f / COLUMNS * LINES;
      put(local % LANES, result, image, line, first_column, (first_matrix + f % COLUMNS) * N, group.z);
    }
  }
}
