/**
 * @file Whole models and a guided step: as one, and by layer. A layer's time is that of its dispatches run alone, so their
 * sum may differ from the whole, which is timed by itself.
 */
import type { ClassifierModel, UNetModel } from '../src/checkpoints/model.ts';
import { linearPart } from '../src/diffusion/ddim.ts';
import { classifierGuidance } from '../src/diffusion/guidance.ts';
import { buildStep } from '../src/diffusion/step.ts';
import * as classifierLayers from '../src/layers/classifier.ts';
import { add } from '../src/layers/elementwise.ts';
import * as unetLayers from '../src/layers/unet.ts';
import type { Runtime } from '../src/runtime/device.ts';
import { Graph } from '../src/runtime/graph.ts';
import { type Clock, type MeasureOptions, measure, summary } from '../src/runtime/measure.ts';
import { Plan } from '../src/runtime/plan.ts';
import type { Shape, Tensor } from '../src/runtime/resources.ts';
import type { Peak } from './peak.ts';
import type { LayerKind, LayerTime, ModelResult } from './results.ts';

export interface ModelPair {
  readonly unet: UNetModel;
  readonly classifier: ClassifierModel;
}

export interface ModelCase {
  readonly name: string;
  readonly note: string;
  /** The graph, and what is read of it. */
  graph(runtime: Runtime, models: ModelPair, batch: number): { graph: Graph; outputs: Tensor[]; weightBytes: number };
}

export const MODEL_CASES: readonly ModelCase[] = [
  {
    name: 'U-Net',
    note: 'forward',
    graph: (runtime, { unet }, n) => {
      const { model: args } = unet.config;
      const graph = new Graph(runtime.target);
      const x = graph.input('x', { n, c: args.in_channels, h: args.image_size, w: args.image_size });
      const timesteps = graph.input('timesteps', vector(n, args.model_channels));
      const labels = args.num_classes === null ? null : graph.inputArray('labels', n);
      const y = unetLayers.forward({ graph, weights: unet.weights }, args, { x, timesteps, labels });
      return { graph, outputs: [y], weightBytes: unet.weights.bytes };
    },
  },
  {
    name: 'Classifier',
    note: 'forward',
    graph: (runtime, pair, n) => {
      const { graph, logits } = classifierGraph(runtime, pair, n);
      return { graph, outputs: [logits], weightBytes: pair.classifier.weights.bytes };
    },
  },
  {
    name: 'Classifier',
    note: 'forward and input gradient',
    graph: (runtime, pair, n) => {
      const { graph, logits, x } = classifierGraph(runtime, pair, n);
      const { selected } = classifierLayers.select(graph, logits, graph.inputArray('labels', n));
      const ones = graph.constant('ones', vector(n, 1), 1);
      const gradient = graph.backward(selected, ones, x, add);
      return { graph, outputs: [gradient], weightBytes: pair.classifier.weights.bytes };
    },
  },
  {
    name: 'Guided step',
    note: 'U-Net, classifier, its gradient, DDIM',
    graph: (runtime, { unet, classifier }, n) => {
      const { image_size: size, in_channels: c } = unet.config.model;
      const settings = {
        model: unet,
        guidance: classifierGuidance(classifier),
        shape: { n, c, h: size, w: size },
        lowRes: null,
      };
      const features = { dynamicThreshold: false, inpaint: false, hook: false };
      const step = buildStep(runtime.target, settings, linearPart('none'), features);
      const weightBytes = unet.weights.bytes + classifier.weights.bytes;
      return { graph: step.graphs[0]!, outputs: [step.outputs.sample], weightBytes };
    },
  },
];

const vector = (n: number, c: number): Shape => ({ n, h: 1, w: 1, c });

function classifierGraph(runtime: Runtime, { classifier }: ModelPair, n: number) {
  const { model: args } = classifier.config;
  const graph = new Graph(runtime.target);
  const x = graph.input('x', { n, c: args.in_channels, h: args.image_size, w: args.image_size });
  const timesteps = graph.input('timesteps', vector(n, args.model_channels));
  const logits = classifierLayers.forward({ graph, weights: classifier.weights }, args, { x, timesteps });
  return { graph, logits, x };
}

/** What a dispatch counts as, by the folder of its shader. */
function kindOf(shader: string): LayerKind {
  const folder = shader.split('/')[0];
  if (folder === 'conv2d') return 'conv';
  if (folder === 'group_norm') return 'norm';
  if (folder === 'attention' || folder === 'attention_pool') return 'attn';
  return folder === 'linear' ? 'lin' : 'other';
}

export interface ModelOptions extends MeasureOptions {
  /** Called as layers are timed. */
  readonly onLayer?: ((done: number, total: number) => void) | undefined;
}

/** Whole runs that are timed. */
const RUNS = 7;

export async function benchModel(
  runtime: Runtime,
  clock: Clock,
  peak: Peak,
  model: ModelCase,
  pair: ModelPair,
  batch: number,
  { onLayer, signal, batchMs = 10, rounds = 3 }: ModelOptions = {},
): Promise<ModelResult> {
  const { graph, outputs, weightBytes } = model.graph(runtime, pair, batch);
  const plan = await Plan.create(runtime, graph, outputs as never, { signal });
  try {
    await plan.run(signal); // with whatever the driver compiles late
    await runtime.pacer.idle();
    const before = runtime.pacer.submits;
    await plan.run(signal);
    await runtime.pacer.idle();
    const submits = runtime.pacer.submits - before;
    const runs: number[] = [];
    const { calls, bytes } = plan.schedule;
    const cost = calls.reduce((sum, c) => ({ flops: sum.flops + c.cost.flops, bytes: sum.bytes + c.cost.bytes }), {
      flops: 0,
      bytes: 0,
    });
    for (let i = 0; i < RUNS; i++) {
      signal?.throwIfAborted();
      runs.push(await wholeRun(runtime, clock, plan, signal));
    }
    const layers: LayerTime[] = [];
    for (let from = 0; from < calls.length; ) {
      signal?.throwIfAborted();
      const { operation, shader } = calls[from]!;
      let to = from + 1;
      while (to < calls.length && calls[to]!.operation === operation) to++;
      const part = [from, to] as const;
      const task = { name: operation, encode: (pass: GPUComputePassEncoder) => plan.encode(pass, ...part) };
      const [timing] = await measure(clock, [task], { batchMs, rounds, signal });
      layers.push({ name: operation, kind: kindOf(shader.name), ms: timing!.ms, dispatches: to - from });
      from = to;
      onLayer?.(to, calls.length);
    }
    const { ms, spread } = summary(runs);
    return {
      name: model.name,
      note: model.note,
      batch,
      ms,
      spread,
      dispatches: calls.length,
      submits,
      bytes: cost.bytes,
      flops: cost.flops,
      peakBytes: bytes + weightBytes,
      share: cost.flops / (ms / 1e3) / peak.flops,
      layers,
    };
  } finally {
    plan.dispose();
  }
}

/**
 * One run of all dispatches. Where the adapter is slow a run is many submits, which only the wall clock can time; else
 * it is one pass.
 */
async function wholeRun(runtime: Runtime, clock: Clock, plan: Plan, signal?: AbortSignal): Promise<number> {
  if ((plan.runMs ?? Number.POSITIVE_INFINITY) < 100) return clock.time({ encode: (pass) => plan.encode(pass) }, 1);
  const started = performance.now();
  await plan.run(signal);
  await runtime.pacer.idle();
  return performance.now() - started;
}
