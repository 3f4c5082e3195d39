// The batch, several times over: y[k * COUNT + i] = x[i]. Classifier-free guidance runs the model on the same images with
// two labels at once. x holds COUNT vec4f, y TOTAL of them; one invocation each.

override COUNT: u32;
override TOTAL: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < TOTAL) {
    y[index] = x[index % COUNT];
  }
}
