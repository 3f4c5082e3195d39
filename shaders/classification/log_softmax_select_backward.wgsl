// Gradient of the selected log-probability with respect to the logits.
//
//   d_logits[n, k] = d_selected[n] * ((1 if k == y[n] else 0) - exp(log_probs[n, k]))
//
// log_probs, d_logits [N, C'] with C' = CLASSES padded to a multiple of 4, labels [N], d_selected [N, 4] padded.
// One invocation an entry.

override IMAGES: u32;
override CLASSES: u32;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> d_selected: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> d_logits: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let stride = (CLASSES + 3u) / 4u * 4u;
  let image = id.x / stride;
  let k = id.x % stride;
  if (image >= IMAGES) {
    return;
  }
  let indicator = select(0.0, 1.0, k == labels[image]);
  d_logits[id.x] = select(0.0, d_selected[image].x * (indicator - exp(log_probs[id.x])), k < CLASSES);
}
