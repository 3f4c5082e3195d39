// One step of a sampler that is linear in what it knows, in place on x.
//
//   x' = x_factor * x + start_factor * start + noise_factor * noise
//        + saved_x_factor * saved x + saved_start_factor * saved start                       with HISTORY
//   and with HISTORY and store = 1: saved x = x, saved start = start
//
// start is the prediction of x_0, guided and clipped as the sampler wants it. DDIM and its reversal, DPM-Solver++(2M) and
// Heun's method are all of this form; their factors are in src/diffusion/ddim.ts, dpm_solver.ts and heun.ts.
//
// All arrays hold COUNT vec4f, history twice as many: saved x, then saved start. One invocation a vec4f.

override COUNT: u32;
override NOISE: bool = false;
override HISTORY: bool = false;

struct Step {
  x_factor: f32,
  start_factor: f32,
  noise_factor: f32,
  saved_x_factor: f32,
  saved_start_factor: f32,
  store: u32,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> start: array<vec4f>;
@group(0) @binding(2) var<storage, read> noise: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> history: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= COUNT) {
    return;
  }
  let before = x[index];
  let x_0 = start[index];
  var next = step.x_factor * before + step.start_factor * x_0;
  if (NOISE) {
    next += step.noise_factor * noise[index];
  }
  if (HISTORY) {
    // A factor of 0 means that nothing was saved yet.
    if (step.saved_x_factor != 0.0) {
      next += step.saved_x_factor * history[index];
    }
    if (step.saved_start_factor != 0.0) {
      next += step.saved_start_factor * history[COUNT + index];
    }
    if (step.store == 1u) {
      history[index] = before;
      history[COUNT + index] = x_0;
    }
  }
  x[index] = next;
}
