// One step of DDIM (Song et al. 2020, equation 12), in place on x.
//
//   eps = (sqrt_recip * x_t - start) / sqrt_recipm1                               eps again, from the clipped prediction
//   GUIDED: eps = eps - sqrt(1 - abar) * gradient                  (Dhariwal & Nichol 2021, algorithm 2: the score form)
//           start = sqrt_recip * x_t - sqrt_recipm1 * eps                         not clipped again, as in the original
//   x' = start_factor * start + eps_factor * eps + noise_factor * noise
//
// start_factor = sqrt(abar_prev), eps_factor = sqrt(1 - abar_prev - sigma^2), noise_factor = sigma, or 0 at t = 0.
// gradient holds s * grad log p(y | x_t). All arrays hold COUNT vec4f; one invocation each. pred_xstart is the start used.

override COUNT: u32;
override GUIDED: bool = false;
override NOISE: bool = false;

struct Step {
  sqrt_recip: f32,
  sqrt_recipm1: f32,
  gradient_factor: f32,
  start_factor: f32,
  eps_factor: f32,
  noise_factor: f32,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> start: array<vec4f>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(3) var<storage, read> noise: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> pred_xstart: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= COUNT) {
    return;
  }
  let x_t = x[index];
  var x_0 = start[index];
  var eps = (step.sqrt_recip * x_t - x_0) / step.sqrt_recipm1;
  if (GUIDED) {
    eps -= step.gradient_factor * gradient[index];
    x_0 = step.sqrt_recip * x_t - step.sqrt_recipm1 * eps;
  }
  var next = step.start_factor * x_0 + step.eps_factor * eps;
  if (NOISE) {
    next += step.noise_factor * noise[index];
  }
  x[index] = next;
  pred_xstart[index] = x_0;
}
