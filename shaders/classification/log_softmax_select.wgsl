// Log-probabilities of all classes, and that of the class asked for.
//
//   log_probs[n, k] = logits[n, k] - max - log(sum over k of exp(logits[n, k] - max))       selected[n] = log_probs[n, y[n]]
//
// logits, log_probs [N, C'] with C' = CLASSES padded to a multiple of 4, labels and selected [N] ([N, 4] padded).
// One workgroup an image: THREADS invocations share its classes. Saved for the backward pass: log_probs.

override CLASSES: u32;
override THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> log_probs: array<f32>;
@group(0) @binding(3) var<storage, read_write> selected: array<vec4f>;

var<workgroup> partial: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let image = group.x;
  let thread = local.x;
  let stride = (CLASSES + 3u) / 4u * 4u;
  let row = image * stride;

  var largest = -3e38;
  for (var k = thread; k < CLASSES; k += THREADS) {
    largest = max(largest, logits[row + k]);
  }
  partial[thread] = largest;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      partial[thread] = max(partial[thread], partial[thread + half]);
    }
  }
  workgroupBarrier();
  largest = partial[0];
  workgroupBarrier();

  var sum = 0.0;
  for (var k = thread; k < CLASSES; k += THREADS) {
    sum += exp(logits[row + k] - largest);
  }
  partial[thread] = sum;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      partial[thread] += partial[thread + half];
    }
  }
  workgroupBarrier();
  let log_sum = log(partial[0]);

  for (var k = thread; k < stride; k += THREADS) {
    log_probs[row + k] = select(0.0, logits[row + k] - largest - log_sum, k < CLASSES);
  }
  if (thread == 0u) {
    selected[image] = vec4f(logits[row + labels[image]] - largest - log_sum, 0.0, 0.0, 0.0);
  }
}
