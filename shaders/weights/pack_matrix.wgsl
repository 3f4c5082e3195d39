// Packs a matrix or a stack of convolution kernels into the blocks that linear and conv2d kernels read.
//
//   blocks[(out / 4 * TAPS + tap) * IN_QUADS + in / 4][in % 4][out % 4] = raw[s(out) * OUT_STRIDE + s(in) * IN_STRIDE + t]
//
//   t = tap, or TAPS - 1 - tap with FLIP; s(channel) = channel, or the entry of a channel map, -1 for padding.
//
// raw: the checkpoint's own values, float32, float16, bfloat16 or int8 by FORMAT 0, 1, 2, 3. Padding becomes zero. An int8
// is multiplied by the scale of its row of the stored matrix: value(i) = raw[i] * scales[i / ROW].
// STORE 0, 1, 2: a block becomes 4, 2 or 1 vec4u, of float32, of float16, of int8 (then raw is int8 too, and scales are
// left to the host). See src/runtime/weight_formats.ts.
//
// FLIP, OUT_MAPPED and IN_MAPPED are 1 or 0: sizes, not switches, so that one pipeline packs all matrices of a model.
// out_map is padded with -1 to whole quads. One invocation a vec4u: 1, 2 or 4 columns of a block by STORE.
// Host checks: blocks is large enough for FIRST vec4u plus all blocks; the maps have OUTS and INS entries.

override OUTS: u32;
override INS: u32;
override TAPS: u32;
override OUT_STRIDE: u32;
override IN_STRIDE: u32;
override ROW: u32;
override FIRST: u32;
override FLIP: u32;
override OUT_MAPPED: u32;
override IN_MAPPED: u32;
override FORMAT: u32 = 0u;
override STORE: u32 = 0u;

@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read> out_map: array<vec4i>;
@group(0) @binding(2) var<storage, read> in_map: array<i32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> blocks: array<vec4u>;

fn value(index: u32) -> f32 {
  if (FORMAT == 0u) {
    return bitcast<f32>(raw[index]);
  }
  if (FORMAT == 3u) {
    let integer = f32(extractBits(bitcast<i32>(raw[index >> 2u]), (index & 3u) * 8u, 8u));
    if (STORE == 2u) {
      return integer / 127.0;
    }
    return integer * scales[index / ROW];
  }
  let word = raw[index >> 1u];
  if (FORMAT == 1u) {
    return unpack2x16float(word)[index & 1u];
  }
  return bitcast<f32>((word >> ((index & 1u) * 16u)) << 16u);
}

fn entry(source_out: i32, first: u32, there: bool) -> f32 {
  let exists = there && source_out >= 0;
  return select(0.0, value(select(0u, u32(source_out) * OUT_STRIDE + first, exists)), exists);
}

// Four output channels of one input channel.
fn column(source_outs: vec4i, in_channel: u32, tap: u32) -> vec4f {
  var source_in = i32(in_channel);
  if (IN_MAPPED == 1u) {
    source_in = in_map[min(in_channel, INS - 1u)];
  }
  let there = INS > in_channel && source_in >= 0;
  let first = u32(source_in) * IN_STRIDE + tap;
  return vec4f(
    entry(source_outs.x, first, there),
    entry(source_outs.y, first, there),
    entry(source_outs.z, first, there),
    entry(source_outs.w, first, there),
  );
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let columns = select(select(1u, 2u, STORE == 1u), 4u, STORE == 2u); // of an invocation
  let block_index = index / (4u / columns);
  let in_quads = (INS + 3u) / 4u;
  let out_quads = (OUTS + 3u) / 4u;
  if (block_index >= out_quads * TAPS * in_quads) {
    return;
  }
  let in_channel = block_index % in_quads * 4u + index % (4u / columns) * columns;
  let tap = block_index / in_quads % TAPS;
  let source_tap = select(tap, TAPS - 1u - tap, FLIP == 1u);
  let out_quad = block_index / (in_quads * TAPS);
  let outs = vec4i(i32(out_quad * 4u)) + vec4i(0, 1, 2, 3);
  var source_outs = select(vec4i(-1), outs, vec4i(i32(OUTS)) > outs);
  if (OUT_MAPPED == 1u) {
    source_outs = out_map[out_quad];
  }

  let a = column(source_outs, in_channel, source_tap);
  if (STORE == 0u) {
    blocks[FIRST + index] = bitcast<vec4u>(a);
    return;
  }
  let b = column(source_outs, in_channel + 1u, source_tap);
  if (STORE == 1u) {
    blocks[FIRST + index] = vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
    return;
  }
  let c = column(source_outs, in_channel + 2u, source_tap);
  let d = column(source_outs, in_channel + 3u, source_tap);
  blocks[FIRST + index] = vec4u(pack4x8snorm(a), pack4x8snorm(b), pack4x8snorm(c), pack4x8snorm(d));
}
