// dx = dy * sigmoid(x) * (1 + x * (1 - sigmoid(x))). All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    let value = x[index];
    let sigmoid = 1.0 / (1.0 + exp(min(-value, vec4f(80.0))));
    dx[index] = dy[index] * sigmoid * (1.0 + value * (1.0 - sigmoid));
  }
}
