// What the model's output says of x_0.
//
//   pred_xstart = clamp(x_factor * x_t + output_factor * mean, -limit, limit)
//
// The factors depend on the timestep and on what the model predicts: for eps they are sqrt(1 / abar) and
// -sqrt(1 / abar - 1). limit is 1 with clip_denoised. All arrays hold COUNT vec4f; one invocation each.

override COUNT: u32;

struct Prediction {
  x_factor: f32,
  output_factor: f32,
  limit: f32,
}

@group(0) @binding(0) var<uniform> prediction: Prediction;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> mean: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> pred_xstart: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index < COUNT) {
    let value = prediction.x_factor * x[index] + prediction.output_factor * mean[index];
    pred_xstart[index] = clamp(value, vec4f(-prediction.limit), vec4f(prediction.limit));
  }
}
