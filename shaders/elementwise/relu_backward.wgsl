// dx = dy where y > 0, else 0; y is the result of the forward pass. All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dx: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    dx[index] = select(vec4f(), dy[index], y[index] > vec4f());
  }
}
