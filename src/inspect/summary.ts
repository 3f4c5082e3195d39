/**
 * @file What a model is made of and what it costs, from its configuration alone: no weights, no device.
 */
import { type ModelConfig, modelParameters } from '../checkpoints/config.ts';
import type { ShapedModel } from '../checkpoints/model.ts';
import { linearPart } from '../diffusion/ddim.ts';
import { classifierGuidance, noGuidance } from '../diffusion/guidance.ts';
import { buildStep, type DenoisingModel } from '../diffusion/step.ts';
import * as classifier from '../layers/classifier.ts';
import type { Layer } from '../layers/encoder.ts';
import { buildNetwork, inputShape, type NetworkSize, usualLowRes } from '../layers/network.ts';
import * as superResolution from '../layers/super_resolution.ts';
import * as unet from '../layers/unet.ts';
import { OptionError } from '../runtime/errors.ts';
import type { Graph, Target } from '../runtime/graph.ts';
import { pipelineKey } from '../runtime/pipelines.ts';
import type { Shape, Tensor } from '../runtime/resources.ts';
import { type Schedule, type ScheduledCall, schedule } from '../runtime/schedule.ts';
import type { MatrixFormat } from '../runtime/weight_formats.ts';
import { WeightShapes } from '../runtime/weights.ts';

/** One layer of a model, under the name of guided-diffusion's module. */
export interface LayerSummary {
  readonly name: string;
  /** In words, for example "residual block 192 → 384, down". */
  readonly what: string;
  readonly parameters: number;
  /** Multiply-adds of its convolutions, products and attention for the whole batch. */
  readonly multiplyAdds: number;
  /** Of its result. */
  readonly shape: Shape | null;
}

export interface ModelSummary {
  readonly config: ModelConfig;
  readonly parameters: number;
  readonly multiplyAdds: number;
  readonly layers: readonly LayerSummary[];
  /** Of one forward pass; of a classifier also with the gradient of its input. */
  readonly plans: readonly PlanSummary[];
}

export interface PlanSummary {
  readonly what: string;
  readonly dispatches: number;
  /** Distinct ones: what a device compiles. */
  readonly pipelines: number;
  readonly multiplyAdds: number;
  /** Of all kernels, those that only move and normalise values included. */
  readonly flops: number;
  /** What kernels read and write in storage, by the layers' cost model: each operand of a dispatch once. */
  readonly bytesMoved: number;
  /** Packed parameters, each layout once. */
  readonly weightBytes: number;
  /** What the plan allocates for activations. */
  readonly activationBytes: number;
  /** The largest sum of activations alive at once: no plan can do with less. */
  readonly liveBytes: number;
  readonly largestActivationBytes: number;
  /** Dispatches that compute anew what did not fit into the memory budget; those above include them. */
  readonly recomputed: number;
  /** Why the memory budget cannot be met, if so: then the figures are those without one. */
  readonly problem: string | null;
}

export interface SummaryOptions {
  readonly batch?: number;
  /** Of the pictures; the model's `image_size` by default. */
  readonly height?: number;
  readonly width?: number;
  readonly target?: Target;
  /** How matrices are kept on the device; activations are float32. `f32` by default. */
  readonly precision?: MatrixFormat;
  /** Bytes that each plan may allocate for activations. */
  readonly memoryBudget?: number | undefined;
}

const GPU: Target = { adapter: 'gpu', slowCompiler: false };

/** A model of a configuration, its parameters' shapes known and their values not. */
export function shapedModel<C extends ModelConfig>(
  config: C,
  { precision = 'f32' }: Pick<SummaryOptions, 'precision'> = {},
): ShapedModel<C['kind']> {
  const shapes = new Map(modelParameters(config).map(({ name, shape }) => [name, shape]));
  const weights = new WeightShapes(shapes, () => precision);
  return { config: config as never, weights };
}

/** @throws OptionError or Error if pictures of that size do not go through such a model */
export function summarize(config: ModelConfig, options: SummaryOptions = {}): ModelSummary {
  const { calls } = planned(...passOf(config, options, false), {}).made;
  const parameters = modelParameters(config);
  const layers = layersOf(config).map(({ name, what }) => {
    const own = parameters.filter((p) => p.name === name || p.name.startsWith(`${name}.`));
    const ownCalls = calls.filter((call) => call.layer === name);
    return { name, what, parameters: elements(own), multiplyAdds: multiplyAdds(ownCalls), shape: resultOf(ownCalls) };
  });
  const plans = [planOf('forward pass', ...passOf(config, options, false), options)];
  if (config.kind === 'classifier') {
    plans.push(planOf('forward pass and input gradient', ...passOf(config, options, true), options));
  }
  return { config, parameters: elements(parameters), multiplyAdds: multiplyAdds(calls), layers, plans };
}

/** One DDIM step: of the model alone, or guided by a classifier. */
export function summarizeStep(
  model: ShapedModel<'unet'> | ShapedModel<'super_resolution'>,
  guide: ShapedModel<'classifier'> | null,
  options: SummaryOptions = {},
): PlanSummary {
  const { model: args } = model.config;
  const size = sizeOf(model.config, options);
  const conditional = args.num_classes !== null;
  const guidance = guide ? classifierGuidance(guide, { conditional }) : noGuidance({ conditional });
  const lowRes = size.lowRes ? { h: size.lowRes.height, w: size.lowRes.width } : null;
  const settings = { model: model as DenoisingModel, guidance, shape: inputShape(model.config, size), lowRes };
  const features = { dynamicThreshold: false, inpaint: false, hook: false };
  const step = buildStep(options.target ?? GPU, settings, linearPart('none'), features);
  const outputs = Object.values(step.outputs).filter((t) => t !== null);
  return planOf(guide ? 'guided DDIM step' : 'DDIM step', step.graphs[0]!, outputs, options);
}

const sizeOf = (config: ModelConfig, { batch = 1, height, width }: SummaryOptions): NetworkSize => {
  const size = { batch, height, width };
  return { ...size, lowRes: usualLowRes(config, size) };
};

function passOf(config: ModelConfig, options: SummaryOptions, gradient: boolean): [Graph, Tensor[]] {
  const size = sizeOf(config, options);
  const { graph, outputs } = buildNetwork(options.target ?? GPU, shapedModel(config, options), size, gradient);
  return [graph, gradient ? [outputs.selected, outputs.gradient].filter((t) => t !== null) : [outputs.output]];
}

/** A schedule within the memory budget, or without one and the reason why not. */
function planned(
  graph: Graph,
  outputs: readonly Tensor[],
  { memoryBudget }: Pick<SummaryOptions, 'memoryBudget'>,
): { made: Schedule; problem: string | null } {
  try {
    return { made: schedule(graph, outputs, { memoryBudget }), problem: null };
  } catch (error) {
    if (memoryBudget === undefined || !(error instanceof OptionError)) throw error;
    return { made: schedule(graph, outputs), problem: error.message };
  }
}

/** Names and descriptions of a model's layers, in the order in which they run. */
function layersOf(config: ModelConfig): { name: string; what: string }[] {
  const { model } = config;
  const width = 4 * model.model_channels;
  const blocks =
    config.kind === 'unet'
      ? unet.layersOf(config.model)
      : config.kind === 'super_resolution'
        ? superResolution.layersOf(config.model)
        : classifier.layersOf(config.model);
  const labels = config.kind === 'classifier' ? null : config.model.num_classes;
  const out =
    config.kind === 'classifier'
      ? `${config.model.pool} pool to ${model.out_channels} classes`
      : 'norm, SiLU, convolution';
  return [
    { name: 'time_embed', what: `linear ${model.model_channels} → ${width} → ${width}, SiLU between` },
    ...(labels === null ? [] : [{ name: 'label_emb', what: `${labels} classes` }]),
    { name: 'emb_layers', what: 'projections of the embedding for all residual blocks, in one product' },
    ...(config.kind === 'super_resolution' ? [{ name: 'low_res', what: 'the smaller picture, bilinear' }] : []),
    ...blocks.map((layer) => ({ name: layer.name, what: describeLayer(layer) })),
    { name: 'out', what: out },
  ];
}

function describeLayer(layer: Layer): string {
  switch (layer.kind) {
    case 'conv':
      return `convolution 3 x 3, ${layer.spec.in} → ${layer.spec.out}`;
    case 'res': {
      const { channels, out, resample } = layer.spec;
      return `residual block ${channels} → ${out}${resample === null ? '' : `, ${resample}`}`;
    }
    case 'attention': {
      const { heads, channels } = layer.spec;
      return `attention, ${heads} head${heads === 1 ? '' : 's'} of ${channels / heads}`;
    }
    case 'up':
      return layer.spec ? 'nearest up, convolution' : 'nearest up';
    case 'down':
      return layer.spec ? 'convolution 3 x 3, stride 2' : 'average down';
  }
}

const elements = (parameters: readonly { readonly shape: readonly number[] }[]): number =>
  parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);

/** Kernels whose work is counted in multiply-adds. */
const PRODUCTS = /^(conv2d|linear|attention)\//;

const multiplyAdds = (calls: readonly ScheduledCall[]): number =>
  calls.reduce(
    (sum, { shader, cost }) => sum + (cost.multiplyAdds ?? (PRODUCTS.test(shader.name) ? cost.flops / 2 : 0)),
    0,
  );

/** Shape of what the last of some calls writes. */
function resultOf(calls: readonly ScheduledCall[]): Shape | null {
  const call = calls.at(-1);
  if (!call) return null;
  const written = call.shader.bindings
    .filter(({ access }) => access === 'read_write')
    .map(({ name }) => call.bind[name]);
  return written.flatMap((r) => (r?.kind === 'tensor' && r.shape ? [r.shape] : []))[0] ?? null;
}

function planOf(
  what: string,
  graph: Graph,
  outputs: readonly Tensor[],
  options: Pick<SummaryOptions, 'memoryBudget'>,
): PlanSummary {
  const { made, problem } = planned(graph, outputs, options);
  const weights = new Map<WeightShapes, Map<string, number>>();
  let largest = 0;
  for (const { bind } of made.calls) {
    for (const resource of Object.values(bind)) {
      if (resource.kind === 'weights') {
        const { source, key, bytes } = resource;
        weights.set(source, (weights.get(source) ?? new Map()).set(key, bytes));
      }
      if (resource.kind === 'tensor') largest = Math.max(largest, resource.bytes);
    }
  }
  return {
    what,
    dispatches: made.calls.length,
    pipelines: new Set(made.calls.map(pipelineKey)).size,
    multiplyAdds: multiplyAdds(made.calls),
    flops: made.calls.reduce((sum, { cost }) => sum + cost.flops, 0),
    bytesMoved: made.calls.reduce((sum, { cost }) => sum + cost.bytes, 0),
    weightBytes: [...weights.values()].flatMap((own) => [...own.values()]).reduce((a, b) => a + b, 0),
    activationBytes: made.bytes,
    liveBytes: made.liveBytes,
    largestActivationBytes: largest,
    recomputed: made.recomputed,
    problem,
  };
}
