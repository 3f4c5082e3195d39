// A weighted sum of two tensors, clamped.
//
//   y = clamp(a_factor * a + b_factor * b, -limit, limit)
//
// What it is used for (src/diffusion/step_operations.ts):
//   prediction of x_0     a = x_t, b = the model's output; for eps the factors are sqrt(1 / abar) and -sqrt(1 / abar - 1)
//   posterior mean        a = x_t, b = x_0
//   guided x_0            a = x_0, b = s * grad log p(y | x_t), factors 1 and sqrt(1 / abar - 1) * sqrt(1 - abar): the
//                         score form, eps - sqrt(1 - abar) * b, said of x_0
//
// All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

struct Factors {
  a_factor: f32,
  b_factor: f32,
  limit: f32,
}

@group(0) @binding(0) var<uniform> factors: Factors;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    let value = factors.a_factor * a[index] + factors.b_factor * b[index];
    y[index] = clamp(value, vec4f(-factors.limit), vec4f(factors.limit));
  }
}
