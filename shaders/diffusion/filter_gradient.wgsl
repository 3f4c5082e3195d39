// Passes the guidance gradient through an optimiser's filter, step by step.
//
//   momentum (ADAM false)   m = keep1 * m + g                                 y = s[n] * m
//   Adam (ADAM true)        m = keep1 * m + (1 - beta1) * g                   y = s[n] * (m * correct1) / (sqrt(v * correct2) + eps)
//                           v = keep2 * v + (1 - beta2) * g^2
//
// keep1 and keep2 are the betas, or 0 at the first step, where the state holds nothing. correct1 and correct2 are
// 1 / (1 - beta^k). g is the gradient at scale 1.
//
// g, y [N, PER_IMAGE] of vec4f; scale [N, 4], the first entry counts; state: m, and with ADAM v after it. One invocation a
// vec4f. COUNT = N * PER_IMAGE.

override COUNT: u32;
override PER_IMAGE: u32;
override ADAM: bool = false;

struct Filter {
  keep1: f32,
  keep2: f32,
  new1: f32,
  new2: f32,
  correct1: f32,
  correct2: f32,
  eps: f32,
}

@group(0) @binding(0) var<uniform> filter_: Filter;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> scale: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> state: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= COUNT) {
    return;
  }
  let gradient = g[index];
  var m = filter_.new1 * gradient;
  if (filter_.keep1 != 0.0) {
    m += filter_.keep1 * state[index];
  }
  state[index] = m;
  var result = m;
  if (ADAM) {
    var v = filter_.new2 * gradient * gradient;
    if (filter_.keep2 != 0.0) {
      v += filter_.keep2 * state[COUNT + index];
    }
    state[COUNT + index] = v;
    result = m * filter_.correct1 / (sqrt(v * filter_.correct2) + filter_.eps);
  }
  y[index] = scale[index / PER_IMAGE].x * result;
}
