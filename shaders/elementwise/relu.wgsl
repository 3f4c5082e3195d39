// y = max(x, 0). All arrays hold COUNT vec4f; one invocation each. Gradient: relu_backward.wgsl.

override COUNT: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    y[index] = max(x[index], vec4f());
  }
}
