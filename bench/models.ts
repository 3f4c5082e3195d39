/**
 * @file Whole models and a guided step: as one, and by layer. A layer's time is that of its dispatches run alone, so their
 * sum may differ from the whole, which is timed by itself.
 */
import type { ClassifierModel, UNetModel } from '../src/checkpoints/model.ts';
import { ddimCoefficients, linearPart } from '../src/diffusion/ddim.ts';
import { Denoiser } from '../src/diffusion/denoiser.ts';
import { modelTimestep } from '../src/diffusion/gaussian_diffusion.ts';
import { classifierGuidance } from '../src/diffusion/guidance.ts';
import { timestepEmbedding } from '../src/layers/embedding.ts';
import { buildNetwork } from '../src/layers/network.ts';
import type { Runtime } from '../src/runtime/device.ts';
import { type Clock, type MeasureOptions, measure, summary } from '../src/runtime/measure.ts';
import { pipelineKey } from '../src/runtime/pipelines.ts';
import { Plan } from '../src/runtime/plan.ts';
import type { ScheduledCall } from '../src/runtime/schedule.ts';
import type { Peak } from './peak.ts';
import { relativeDifference } from './reference.ts';
import type { LayerKind, LayerTime, ModelResult, WrongModel } from './results.ts';
import { type ExpectedStep, type ResultName, type StepInputs, someInputs } from './step_inputs.ts';

export interface ModelPair {
  readonly unet: UNetModel;
  readonly classifier: ClassifierModel;
}

export interface ModelCase {
  readonly name: string;
  readonly note: string;
  /** Which of a step's results it makes; null for one that nobody checks. */
  readonly makes: ResultName | null;
  plan(runtime: Runtime, models: ModelPair, batch: number, signal?: AbortSignal): Promise<PlannedModel>;
}

/** A case with its buffers and pipelines. */
export interface PlannedModel {
  readonly plan: Plan;
  /** Of the models, packed. */
  readonly weightBytes: number;
  /** Sets the inputs, runs once, and reads what the case makes, NCHW. */
  result(inputs: StepInputs, signal?: AbortSignal): Promise<Float32Array>;
  dispose(): void;
}

/** One model by itself: its output, or the gradient of log p(y | x). */
const networkCase = (
  name: string,
  note: string,
  of: keyof ModelPair,
  makes: Exclude<ResultName, 'sample'> | null,
): ModelCase => ({
  name,
  note,
  makes,
  plan: async (runtime, pair, batch, signal) => {
    const model = pair[of];
    const { graph, inputs, outputs } = buildNetwork(runtime.target, model, { batch }, makes === 'gradient');
    const wanted = outputs.gradient ?? outputs.output;
    const plan = await Plan.create(runtime, graph, [wanted], { signal });
    return {
      plan,
      weightBytes: model.weights.bytes,
      result: async ({ x, labels, process, t }) => {
        const told = Array<number>(batch).fill(modelTimestep(process, t));
        const { model_channels: width, frequency_shift: shift = 0 } = model.config.model;
        plan.write(inputs.x, x);
        plan.write(inputs.timesteps, timestepEmbedding(told, width, 10000, shift));
        if (inputs.labels) plan.write(inputs.labels, Uint32Array.from(labels));
        await plan.run(signal);
        return plan.read(wanted);
      },
      dispose: () => plan.dispose(),
    };
  },
});

/** What a sampler submits for a step: DDIM without noise. */
const GUIDED_STEP: ModelCase = {
  name: 'Guided step',
  note: 'U-Net, classifier, its gradient, DDIM',
  makes: 'sample',
  plan: async (runtime, { unet, classifier }, batch, signal) => {
    const { model, nullClass } = unet.config;
    const guidance = classifierGuidance(classifier, { conditional: model.num_classes !== null && nullClass === null });
    const denoiser = new Denoiser(runtime, { unet, guidance, batch });
    const features = { dynamicThreshold: false, inpaint: false, hook: false };
    const stepper = await denoiser.stepper(linearPart('none'), features, { signal });
    return {
      plan: stepper.plans[0]!,
      weightBytes: unet.weights.bytes + classifier.weights.bytes,
      result: async ({ x, labels, process, t, scale }) => {
        const run = { process, labels, clipDenoised: true, dynamicThreshold: null, seed: 0, firstImage: 0 };
        stepper.begin(run);
        stepper.setSample(x);
        stepper.setScale(Array<number>(batch).fill(scale));
        const coefficients = { step: ddimCoefficients(process, t, 0) };
        await stepper.evaluate(run, { t, next: t - 1, coefficients }, { signal });
        return (await stepper.read('sample'))!;
      },
      dispose: () => denoiser.dispose(),
    };
  },
};

export const MODEL_CASES: readonly ModelCase[] = [
  networkCase('U-Net', 'forward', 'unet', 'output'),
  networkCase('Classifier', 'forward', 'classifier', null),
  networkCase('Classifier', 'forward and input gradient', 'classifier', 'gradient'),
  GUIDED_STEP,
];

/** What a dispatch counts as: by its operation, else by the folder of its shader. */
function kindOf({ choice, shader }: ScheduledCall): LayerKind {
  if (choice?.kind === 'linear') return 'lin';
  const folder = shader.name.split('/')[0];
  if (folder === 'conv2d' || folder === 'winograd' || choice?.kind === 'conv2d') return 'conv';
  if (folder === 'group_norm') return 'norm';
  if (folder === 'attention' || folder === 'attention_pool' || choice?.kind === 'attention') return 'attn';
  return folder === 'linear' ? 'lin' : 'other';
}

const list = (record: Readonly<Record<string, unknown>>): string =>
  Object.entries(record)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');

/** What a layer computes, in words: its kind and sizes, and the variant that was taken. */
function workOf([first]: readonly ScheduledCall[]): string {
  const { choice, shader, sizes } = first!;
  if (!choice) return `${shader.name}, ${list(sizes)}`;
  return `${choice.kind} ${choice.form}, ${choice.sizes.join(' ')}: ${choice.chosen().name}`;
}

/** Operations by a layer's definition, whatever its kernels save. */
const definedFlops = ({ cost }: ScheduledCall): number =>
  cost.multiplyAdds === undefined ? cost.flops : 2 * cost.multiplyAdds;

/** Equal for dispatches that do the same work, which then take equally long. */
const timeKey = (calls: readonly ScheduledCall[]): string =>
  calls.map((call) => [pipelineKey(call), list(call.sizes), call.grid.join()].join('|')).join('\n');

export interface ModelOptions extends MeasureOptions {
  /** What the models are run on, and should make of it; by default something, and nothing is checked. */
  readonly expected?: ExpectedStep | null | undefined;
  /** Whether layers are timed, and described. */
  readonly layers?: 'timed' | 'described' | 'none' | undefined;
  /** Called as layers are timed. */
  readonly onLayer?: ((done: number, total: number) => void) | undefined;
}

/** Whole runs that are timed: so many, and on a GPU more until they have taken so long. */
const RUNS = { least: 7, most: 50, ms: 1000 } as const;

/** A run that takes longer is not one pass. */
const LONGEST_PASS_MS = { cpu: 100, gpu: 400 } as const;

/** Relative errors above these are another computation, not rounding. */
export const MODEL_TOLERANCE = { float32: 1e-4, reduced: 5e-2 } as const;

/** @returns figures, or of a model with a wrong result its error */
export async function benchModel(
  runtime: Runtime,
  clock: Clock,
  peak: Peak,
  model: ModelCase,
  pair: ModelPair,
  batch: number,
  options: ModelOptions = {},
): Promise<ModelResult | WrongModel> {
  const { expected = null, layers = 'timed', signal, wakeMs = 0 } = options;
  const { name, note, makes } = model;
  const planned = await model.plan(runtime, pair, batch, signal);
  try {
    const { plan } = planned;
    const inputs = expected?.inputs ?? someInputs(pair.unet, pair.classifier.config.model.out_channels, batch);
    const found = await planned.result(inputs, signal); // with whatever the driver compiles late
    const error = expected && makes ? relativeDifference(found, expected.results[makes]) : undefined;
    const tolerance = MODEL_TOLERANCE[runtime.target.accuracy ?? 'float32'];
    if (error !== undefined && !(error <= tolerance)) {
      return { name, note, batch, error, wrong: `relative error above ${tolerance}` };
    }
    await runtime.pacer.idle();
    const before = runtime.pacer.submits;
    await plan.run(signal);
    await runtime.pacer.idle();
    const submits = runtime.pacer.submits - before;
    for (const until = performance.now() + wakeMs; performance.now() < until; ) {
      await plan.run(signal);
      await runtime.pacer.idle();
    }
    const { runs, wallMs } = await wholeRuns(runtime, clock, plan, signal);
    const { ms, spread } = summary(runs);
    const { calls, bytes } = plan.schedule;
    const cost = { flops: sum(calls, (c) => c.cost.flops), bytes: sum(calls, (c) => c.cost.bytes) };
    return {
      name,
      note,
      batch,
      ms,
      spread,
      ...(wallMs === null ? {} : { wallMs }),
      ...(error === undefined ? {} : { error }),
      dispatches: calls.length,
      submits,
      bytes: cost.bytes,
      flops: cost.flops,
      peakBytes: bytes + planned.weightBytes,
      share: cost.flops / (ms / 1e3) / peak.flops,
      layers: layers === 'none' ? [] : await timeLayers(clock, plan, layers === 'described', options),
    };
  } finally {
    planned.dispose();
  }
}

const sum = <T>(list: readonly T[], of: (entry: T) => number): number => list.reduce((total, e) => total + of(e), 0);

/** Each layer's dispatches by themselves. Layers of the same work are timed once. */
async function timeLayers(
  clock: Clock,
  plan: Plan,
  described: boolean,
  { onLayer, signal, batchMs = 10, rounds = 3 }: ModelOptions,
): Promise<LayerTime[]> {
  const { calls } = plan.schedule;
  const known = new Map<string, number>();
  const layers: LayerTime[] = [];
  for (let from = 0; from < calls.length; ) {
    signal?.throwIfAborted();
    const { operation } = calls[from]!;
    let to = from + 1;
    while (to < calls.length && calls[to]!.operation === operation) to++;
    const part = calls.slice(from, to);
    const key = timeKey(part);
    let ms = known.get(key);
    if (ms === undefined) {
      const range = [from, to] as const;
      const task = { name: operation, encode: (pass: GPUComputePassEncoder) => plan.encode(pass, ...range) };
      ms = (await measure(clock, [task], { batchMs, rounds, signal }))[0]!.ms;
      known.set(key, ms);
    }
    const more = described ? { work: workOf(part), flops: sum(part, definedFlops) } : {};
    layers.push({ name: operation, kind: kindOf(part[0]!), ms, dispatches: to - from, ...more });
    from = to;
    onLayer?.(to, calls.length);
  }
  return layers;
}

/**
 * Runs of all dispatches: milliseconds of each; on a GPU also of one in a row of them by the host's clock, with all that it
 * takes to record and submit.
 */
async function wholeRuns(
  runtime: Runtime,
  clock: Clock,
  plan: Plan,
  signal?: AbortSignal,
): Promise<{ readonly runs: readonly number[]; readonly wallMs: number | null }> {
  const gpu = runtime.target.adapter === 'gpu';
  const runs: number[] = [];
  const enough = () => runs.length >= RUNS.most || sum(runs, (ms) => ms) >= RUNS.ms;
  while (runs.length < RUNS.least || (gpu && !enough())) {
    signal?.throwIfAborted();
    runs.push(await wholeRun(runtime, clock, plan, signal));
  }
  if (!gpu) return { runs, wallMs: null };
  const started = performance.now();
  for (let i = 0; i < runs.length; i++) await plan.run(signal);
  await runtime.pacer.idle();
  return { runs, wallMs: (performance.now() - started) / runs.length };
}

/**
 * One run of all dispatches. Where the adapter is slow a run is many submits, which only the wall clock can time; else
 * it is one pass.
 */
async function wholeRun(runtime: Runtime, clock: Clock, plan: Plan, signal?: AbortSignal): Promise<number> {
  if ((plan.runMs ?? Number.POSITIVE_INFINITY) < LONGEST_PASS_MS[runtime.target.adapter])
    return clock.time({ encode: (pass) => plan.encode(pass) }, 1);
  const started = performance.now();
  await plan.run(signal);
  await runtime.pacer.idle();
  return performance.now() - started;
}
