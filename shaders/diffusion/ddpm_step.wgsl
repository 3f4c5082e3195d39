// One ancestral step, x' ~ p(x_{t-1} | x_t) (Ho et al. 2020, algorithm 2), in place on x.
//
//   mean = start_factor * start + x_factor * x_t, or mean_given                                  with MEAN_GIVEN
//   log variance = max_log                                                                       VARIANCE 0: fixed
//                = v                                                                             VARIANCE 1: learned
//                = f * max_log + (1 - f) * min_log, f = (v + 1) / 2                              VARIANCE 2: learned range
//   GUIDED: mean = mean + variance * gradient            (Dhariwal & Nichol 2021, algorithm 1)
//   x' = mean + noise_factor * exp(log variance / 2) * noise
//
// noise_factor is 0 at t = 0 and 1 elsewhere. `variance` is the fixed one; it differs from exp(max_log) at t = 0 for
// fixed_small. gradient holds s * grad log p(y | x_t). All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;
override GUIDED: bool = false;
override MEAN_GIVEN: bool = false;
override VARIANCE: u32 = 0u;

struct Step {
  start_factor: f32,
  x_factor: f32,
  variance: f32,
  min_log: f32,
  max_log: f32,
  noise_factor: f32,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> start: array<vec4f>;
@group(0) @binding(2) var<storage, read> mean_given: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(5) var<storage, read> noise: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= COUNT) {
    return;
  }
  var mean = step.start_factor * start[index] + step.x_factor * x[index];
  if (MEAN_GIVEN) {
    mean = mean_given[index];
  }
  var log_variance = vec4f(step.max_log);
  var variance = vec4f(step.variance);
  if (VARIANCE == 1u) {
    log_variance = v[index];
    variance = exp(log_variance);
  } else if (VARIANCE == 2u) {
    let f = (v[index] + 1.0) * 0.5;
    log_variance = f * step.max_log + (1.0 - f) * step.min_log;
    variance = exp(log_variance);
  }
  if (GUIDED) {
    mean += variance * gradient[index];
  }
  x[index] = mean + step.noise_factor * exp(0.5 * log_variance) * noise[index];
}
