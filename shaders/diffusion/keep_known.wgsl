// Inpainting: what is known of the picture replaces what was made, at the noise level of the new x, in place on x.
//
//   x = mask * x + (1 - mask) * (start_factor * known + noise_factor * noise)
//
// mask is 1 where the picture is to be made and 0 where it is known. The factors are sqrt(abar) and sqrt(1 - abar) of the
// new x. All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

struct Level {
  start_factor: f32,
  noise_factor: f32,
}

@group(0) @binding(0) var<uniform> level: Level;
@group(0) @binding(1) var<storage, read> mask: array<vec4f>;
@group(0) @binding(2) var<storage, read> known: array<vec4f>;
@group(0) @binding(3) var<storage, read> noise: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    let kept = level.start_factor * known[index] + level.noise_factor * noise[index];
    x[index] = mix(kept, x[index], mask[index]);
  }
}
