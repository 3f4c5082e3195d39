/**
 * @file Where the time of a guided denoising step goes: every dispatch timed by itself, and the step as a whole.
 *
 * Runs in Node and in a browser alike. The step is that of the shipped models, or of any other pair.
 */
import type { ClassifierModel, UNetModel } from '../src/checkpoints/model.ts';
import { linearPart } from '../src/diffusion/ddim.ts';
import { classifierGuidance } from '../src/diffusion/guidance.ts';
import { buildStep } from '../src/diffusion/step.ts';
import type { Runtime } from '../src/runtime/device.ts';
import { Plan } from '../src/runtime/plan.ts';

export interface KernelRow {
  /** Path of the shader. */
  readonly kernel: string;
  readonly dispatches: number;
  readonly ms: number;
  readonly gflops: number;
  /** Storage traffic by the cost model, in GB/s. */
  readonly gbps: number;
}

export interface GuidedStepReport {
  readonly batch: number;
  readonly dispatches: number;
  /** Building the plan, compilation included. */
  readonly planMs: number;
  /** The first run, with whatever the driver compiles late. */
  readonly firstMs: number;
  /** Median of whole steps. */
  readonly stepMs: number;
  /** Sum of the dispatches timed alone. */
  readonly sumMs: number;
  readonly activationBytes: number;
  readonly leastBytes: number;
  readonly weightBytes: number;
  readonly rows: readonly KernelRow[];
}

export async function benchGuidedStep(
  runtime: Runtime,
  unet: UNetModel,
  classifier: ClassifierModel,
  batch: number,
): Promise<GuidedStepReport> {
  const { image_size, in_channels } = unet.config.model;
  const shape = { n: batch, c: in_channels, h: image_size, w: image_size };
  const settings = { model: unet, guidance: classifierGuidance(classifier), shape, lowRes: null };
  const features = { dynamicThreshold: false, inpaint: false, hook: false };
  const step = buildStep(runtime.target, settings, linearPart('none'), features);
  const started = performance.now();
  const plan = await Plan.create(runtime, step.graphs[0]!, [step.outputs.sample]);
  const planMs = performance.now() - started;
  try {
    const whole = async () => {
      const from = performance.now();
      await plan.run();
      await runtime.pacer.idle();
      return performance.now() - from;
    };
    const firstMs = await whole();
    const steps: number[] = [];
    for (let i = 0; i < 5; i++) steps.push(await whole());
    const times = await plan.profile();
    const { calls, bytes, liveBytes } = plan.schedule;
    const groups = new Map<string, { dispatches: number; ms: number; flops: number; bytes: number }>();
    calls.forEach(({ shader, cost }, i) => {
      const group = groups.get(shader.name) ?? { dispatches: 0, ms: 0, flops: 0, bytes: 0 };
      group.dispatches++;
      group.ms += times[i]!;
      group.flops += cost.flops;
      group.bytes += cost.bytes;
      groups.set(shader.name, group);
    });
    const rows = [...groups]
      .map(([kernel, group]) => ({
        kernel,
        dispatches: group.dispatches,
        ms: group.ms,
        gflops: group.flops / group.ms / 1e6,
        gbps: group.bytes / group.ms / 1e6,
      }))
      .sort((a, b) => b.ms - a.ms);
    return {
      batch,
      dispatches: plan.dispatches,
      planMs,
      firstMs,
      stepMs: steps.sort((a, b) => a - b)[2]!,
      sumMs: times.reduce((a, b) => a + b, 0),
      activationBytes: bytes,
      leastBytes: liveBytes,
      weightBytes: unet.weights.bytes + classifier.weights.bytes,
      rows,
    };
  } finally {
    plan.dispose();
  }
}
