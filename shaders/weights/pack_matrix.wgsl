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
// One invocation a block. Host checks: blocks is large enough for FIRST vec4u plus all blocks.

override OUTS: u32;
override INS: u32;
override TAPS: u32;
override OUT_STRIDE: u32;
override IN_STRIDE: u32;
override ROW: u32;
override FIRST: u32;
override FORMAT: u32 = 0u;
override STORE: u32 = 0u;
override FLIP: bool = false;
override OUT_MAPPED: bool = false;
override IN_MAPPED: bool = false;

@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read> out_map: array<i32>;
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

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let in_quads = (INS + 3u) / 4u;
  let out_quads = (OUTS + 3u) / 4u;
  if (index >= out_quads * TAPS * in_quads) {
    return;
  }
  let in_first = index % in_quads * 4u;
  let tap = index / in_quads % TAPS;
  let out_first = index / (in_quads * TAPS) * 4u;
  let source_tap = select(tap, TAPS - 1u - tap, FLIP);

  var result: mat4x4f;
  for (var i = 0u; i < 4u; i++) {
    var column = vec4f();
    let in_channel = in_first + i;
    var source_in = select(-1, i32(in_channel), in_channel < INS);
    if (IN_MAPPED && source_in >= 0) {
      source_in = in_map[in_channel];
    }
    for (var o = 0u; o < 4u; o++) {
      let out_channel = out_first + o;
      var source_out = select(-1, i32(out_channel), out_channel < OUTS);
      if (OUT_MAPPED && source_out >= 0) {
        source_out = out_map[out_channel];
      }
      if (source_in >= 0 && source_out >= 0) {
        column[o] = value(u32(source_out) * OUT_STRIDE + u32(source_in) * IN_STRIDE + source_tap);
      }
    }
    result[i] = column;
  }
  if (STORE == 0u) {
    for (var i = 0u; i < 4u; i++) {
      blocks[FIRST + index * 4u + i] = bitcast<vec4u>(result[i]);
    }
  } else if (STORE == 1u) {
    for (var i = 0u; i < 2u; i++) {
      let a = result[2u * i];
      let b = result[2u * i + 1u];
      blocks[FIRST + index * 2u + i] =
        vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
    }
  } else {
    blocks[FIRST + index] = vec4u(
      pack4x8snorm(result[0]),
      pack4x8snorm(result[1]),
      pack4x8snorm(result[2]),
      pack4x8snorm(result[3]),
    );
  }
}
