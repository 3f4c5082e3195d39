// y = FACTOR * x. All arrays hold COUNT vec4f; one invocation each. The gradient is the same with dy.

override COUNT: u32;
override FACTOR: f32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    y[index] = FACTOR * x[index];
  }
}
