// Standard normal noise from a counter, the same bits on every adapter. src/diffusion/noise.ts explains it and computes
// the same on the CPU.
//
//   words = philox4x32-10(counter = (quad of the image, image, step, stream), key = seed)      noise = quantile(word)
//
// noise [N, PIXELS, ceil(CHANNELS / 4)] of vec4f, padding zero. One invocation a quad. quantiles: 31 * 64 + 1 entries, in
// units of 2^-26. All products fit in 32 bits: neighbouring entries differ by less than 2^20.

override IMAGES: u32;
override PIXELS: u32;
override CHANNELS: u32;

struct Address {
  seed_low: u32,
  seed_high: u32,
  first_image: u32,
  step: u32,
  stream: u32,
}

@group(0) @binding(0) var<uniform> address: Address;
@group(0) @binding(1) var<storage, read> quantiles: array<u32>;
@group(0) @binding(2) var<storage, read_write> noise: array<vec4f>;

fn high_product(a: u32, b: u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let middle = a1 * b0 + ((a0 * b0) >> 16u);
  let crossed = a0 * b1 + (middle & 0xffffu);
  return a1 * b1 + (middle >> 16u) + (crossed >> 16u);
}

fn philox(start: vec4u, seed: vec2u) -> vec4u {
  var counter = start;
  var key = seed;
  for (var turn = 0u; turn < 10u; turn++) {
    let high0 = high_product(0xd2511f53u, counter.x);
    let high1 = high_product(0xcd9e8d57u, counter.z);
    counter = vec4u(
      high1 ^ counter.y ^ key.x,
      0xcd9e8d57u * counter.z,
      high0 ^ counter.w ^ key.y,
      0xd2511f53u * counter.x,
    );
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return counter;
}

fn deviate(word: u32) -> f32 {
  let magnitude = max(word & 0x7fffffffu, 1u);
  let leading = countLeadingZeros(magnitude);
  let rest = (magnitude << leading) << 1u;
  let segment = rest >> 26u;
  let fraction = (rest << 6u) >> 21u;
  let at = (31u - leading) * 64u + segment;
  let upper = quantiles[at];
  let value = upper - (((upper - quantiles[at + 1u]) * fraction) >> 11u);
  let rounded = i32((value + 16u) >> 5u);
  return f32(select(-rounded, rounded, (word >> 31u) == 0u)) * 0x1p-21f;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  let channel_quads = (CHANNELS + 3u) / 4u;
  let per_image = PIXELS * channel_quads;
  let image = index / per_image;
  if (image >= IMAGES) {
    return;
  }
  let counter = vec4u(index % per_image, address.first_image + image, address.step, address.stream);
  let words = philox(counter, vec2u(address.seed_low, address.seed_high));
  let first_channel = index % channel_quads * 4u;
  var value = vec4f();
  for (var lane = 0u; lane < 4u; lane++) {
    if (first_channel + lane < CHANNELS) {
      value[lane] = deviate(words[lane]);
    }
  }
  noise[index] = value;
}
