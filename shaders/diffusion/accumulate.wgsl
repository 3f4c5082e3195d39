// x = x + y, in place: guidance in its simple form, which adds s * grad log p(y | x) to the new x after the step.
// All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    x[index] += y[index];
  }
}
