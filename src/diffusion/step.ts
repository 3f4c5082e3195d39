/**
 * @file What one denoising step does, as a graph: U-Net, guidance, prediction of x_0, the sampler's own arithmetic.
 *
 * Pure: needs no device. The samplers know the hooks (a score to be guided, a mean to be guided, a result to be changed),
 * not the kinds of guidance; the kinds are here.
 */
import type { ShapedModel } from '../checkpoints/model.ts';
import * as classifier from '../layers/classifier.ts';
import { add, repeat } from '../layers/elementwise.ts';
import * as superResolution from '../layers/super_resolution.ts';
import * as unet from '../layers/unet.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph, type Target } from '../runtime/graph.ts';
import type { Activation, Shape, Tensor, Uniform } from '../runtime/resources.ts';
import type { ClassifierGuidance, Guidance } from './guidance.ts';
import {
  accumulate,
  combine,
  dynamicThreshold,
  filterGradient,
  gaussianNoise,
  keepKnown,
  splitOutput,
} from './step_operations.ts';

/** A model that predicts noise. */
export type DenoisingModel = ShapedModel<'unet'> | ShapedModel<'super_resolution'>;

/** Where the noise of a step comes from: nowhere, the counter, or the caller. */
export type NoiseSource = 'none' | 'counter' | 'given';

/** What a sampler's operations are given. */
export interface SamplerInputs {
  /** x_t, to be changed in place. */
  readonly x: Activation;
  /** The prediction of x_0; guided already where the sampler asked for that. */
  readonly start: Activation;
  /** The model's own output. */
  readonly mean: Activation;
  readonly v: Activation | null;
  /** For samplers that guide the mean: the scaled gradient, taken at x_t or at the given mean. Null without guidance. */
  readonly meanGradient: ((mean: () => Activation) => Activation) | null;
  readonly noise: Activation | null;
}

/** A sampler's part of the plan. Equal keys stand for equal operations. */
export interface SamplerPart {
  readonly key: string;
  readonly noise: NoiseSource;
  /** Which hook classifier guidance acts on. */
  readonly guides: 'score' | 'mean';
  append(graph: Graph, inputs: SamplerInputs): Readonly<Record<string, Uniform>>;
}

/** What else may be in a step. */
export interface StepFeatures {
  /** Each picture's own threshold for x_0, in place of a clamp to [-1, 1]. */
  readonly dynamicThreshold: boolean;
  /** A part of the picture is known. */
  readonly inpaint: boolean;
  /** The prediction of x_0 goes through a function of the caller's, so the step is two plans. */
  readonly hook: boolean;
}

export interface StepSettings {
  readonly model: DenoisingModel;
  readonly guidance: Guidance;
  /** Of x_t. */
  readonly shape: Shape;
  /** Size of the smaller picture that a super-resolution model sees. */
  readonly lowRes: { readonly h: number; readonly w: number } | null;
}

/** One input of the models that depends on a timestep: which one, and how wide its embedding is. */
export interface TimestepInput {
  readonly tensor: Activation;
  /** The timestep the step starts from, or the one it leads to. */
  readonly of: 'current' | 'next';
  /** `frequency_shift` of the model that it goes into. */
  readonly shift: 0 | 1;
}

/** The graph or graphs of a step, and everything in them that the host sets or reads. */
export interface StepGraph {
  /** One, or with a hook two: up to the prediction of x_0, and from there on. */
  readonly graphs: readonly Graph[];
  readonly x: Activation;
  readonly timesteps: readonly TimestepInput[];
  readonly labels: Tensor | null;
  readonly classifierLabels: Tensor | null;
  readonly scale: Activation | null;
  readonly lowRes: Activation | null;
  readonly known: { readonly picture: Activation; readonly mask: Activation } | null;
  readonly noise: Activation | null;
  /** The prediction of x_0 before it is guided: what a hook may change. */
  readonly start: Activation;
  readonly uniforms: {
    /** combine: x_t and the output to x_0. */
    readonly prediction: Uniform;
    /** combine: x_0 and the gradient, where the score is guided. */
    readonly scoreGuidance: Uniform | null;
    readonly threshold: Uniform | null;
    readonly filter: Uniform | null;
    readonly knownLevel: Uniform | null;
    readonly knownNoise: Uniform | null;
    readonly stepNoise: Uniform | null;
    readonly sampler: Readonly<Record<string, Uniform>>;
  };
  readonly outputs: {
    readonly sample: Activation;
    readonly predXstart: Activation;
    readonly mean: Activation;
    readonly v: Activation | null;
    readonly gradient: Activation | null;
    readonly logProbs: Activation | null;
  };
}

export type StepOutput = keyof StepGraph['outputs'];

const vector = (n: number, c: number): Shape => ({ n, h: 1, w: 1, c });

/** @throws OptionError if the guidance and the sampler do not go together */
export function buildStep(
  target: Target,
  settings: StepSettings,
  part: SamplerPart,
  features: StepFeatures,
): StepGraph {
  const { guidance, shape } = settings;
  const first = new Graph(target);
  const x = first.input('x_t', shape);
  const scale = guidance.kind === 'none' ? null : first.input('guidance scale', vector(shape.n, 1));
  const timesteps: TimestepInput[] = [];

  const { output, labels, lowRes } = appendModel(first, settings, x, timesteps);
  const { mean, v } = splitOutput(first, output, shape.c, guidance.kind === 'free' ? scale : null);
  const prediction = combine(first, 'pred_xstart', x, mean);
  let start = prediction.y;
  let threshold: Uniform | null = null;
  if (features.dynamicThreshold) {
    const limited = dynamicThreshold(first, start);
    start = limited.y;
    threshold = limited.threshold;
  }

  const guide = guidance.kind === 'classifier' ? new ClassifierGuide(guidance, shape, scale!, timesteps) : null;
  if (guidance.kind === 'classifier' && guidance.at === 'mean' && part.guides !== 'mean') {
    throw new OptionError('the gradient at the mean is for ddpm: other samplers have no mean');
  }
  const atXt = guidance.kind === 'classifier' && guidance.at === 'xt' ? guide!.gradient(first, x, 'current') : null;

  // With a hook, what follows is a plan of its own, which finds what the first one left.
  const second = features.hook ? new Graph(target) : first;
  if (features.hook) for (const tensor of [x, scale, mean, v, start, atXt]) if (tensor) second.persistent.add(tensor);

  let scoreGuidance: Uniform | null = null;
  let predXstart = start;
  if (atXt && part.guides === 'score') {
    const guided = combine(second, 'guided pred_xstart', start, atXt);
    predXstart = guided.y;
    scoreGuidance = guided.factors;
  }
  let meanGradient: SamplerInputs['meanGradient'] = null;
  if (atXt && part.guides === 'mean') meanGradient = () => atXt;
  if (guidance.kind === 'classifier' && guidance.at === 'mean') {
    meanGradient = (made) => guide!.gradient(second, made(), 'next');
  }

  let noise: Activation | null = null;
  let stepNoise: Uniform | null = null;
  if (part.noise === 'given') noise = second.input('noise', shape);
  if (part.noise === 'counter') {
    noise = second.activation('noise', shape);
    stepNoise = gaussianNoise(second, noise);
  }
  const sampler = part.append(second, { x, start: predXstart, mean, v, meanGradient, noise });
  if (guidance.kind === 'classifier' && guidance.at === 'sample') {
    accumulate(second, x, guide!.gradient(second, x, 'next'));
  }

  let known: StepGraph['known'] = null;
  let knownLevel: Uniform | null = null;
  let knownNoise: Uniform | null = null;
  if (features.inpaint) {
    known = { picture: second.input('known picture', shape), mask: second.input('mask', shape) };
    const levelNoise = second.activation('noise of the known part', shape);
    knownNoise = gaussianNoise(second, levelNoise);
    knownLevel = keepKnown(second, x, known.picture, known.mask, levelNoise);
  }

  return {
    graphs: features.hook ? [first, second] : [first],
    x,
    timesteps,
    labels,
    classifierLabels: guide?.labels ?? null,
    scale,
    lowRes,
    known,
    noise: part.noise === 'given' ? noise : null,
    start,
    uniforms: {
      prediction: prediction.factors,
      scoreGuidance,
      threshold,
      filter: guide?.filter ?? null,
      knownLevel,
      knownNoise,
      stepNoise,
      sampler,
    },
    outputs: { sample: x, predXstart, mean, v, gradient: guide?.result ?? null, logProbs: guide?.logProbs ?? null },
  };
}

/** The U-Net, on each picture once, or for classifier-free guidance twice. */
function appendModel(graph: Graph, settings: StepSettings, x: Activation, timesteps: TimestepInput[]) {
  const { model, guidance, shape } = settings;
  const args = model.config.model;
  const passes = guidance.kind === 'free' ? 2 : 1;
  const images = shape.n * passes;
  const tensor = graph.input('timesteps', vector(images, args.model_channels));
  timesteps.push({ tensor, of: 'current', shift: args.frequency_shift ?? 0 });
  const labels = args.num_classes === null ? null : graph.inputArray('labels', images);
  const twice = (t: Activation) => (passes === 1 ? t : repeat(graph, t, passes));
  const b = { graph, weights: model.weights };
  const inputs = { x: twice(x), timesteps: tensor, labels };
  if (model.config.kind === 'unet') {
    return { output: graph.within('unet', () => unet.forward(b, args, inputs)), labels, lowRes: null };
  }

  if (!settings.lowRes) throw new OptionError('a super-resolution model needs the size of the smaller picture');
  const lowRes = graph.input('low_res', { ...shape, ...settings.lowRes });
  const all = { ...inputs, lowRes: twice(lowRes) };
  return { output: graph.within('unet', () => superResolution.forward(b, args, all)), labels, lowRes };
}

/** The classifier and its gradient, wherever in the step it is taken. */
class ClassifierGuide {
  labels: Tensor | null = null;
  filter: Uniform | null = null;
  result: Activation | null = null;
  logProbs: Activation | null = null;
  readonly #guidance: ClassifierGuidance;
  readonly #shape: Shape;
  readonly #scale: Activation;
  readonly #timesteps: TimestepInput[];

  constructor(guidance: ClassifierGuidance, shape: Shape, scale: Activation, timesteps: TimestepInput[]) {
    this.#guidance = guidance;
    this.#shape = shape;
    this.#scale = scale;
    this.#timesteps = timesteps;
  }

  /** s * grad log p(y | point). The scale is the seed of the backward pass, so it needs no multiplication of its own. */
  gradient(graph: Graph, point: Activation, of: TimestepInput['of']): Activation {
    const { classifier: model, filter } = this.#guidance;
    const args = model.config.model;
    const { n } = this.#shape;
    const timesteps = graph.input('classifier timesteps', vector(n, args.model_channels));
    this.#timesteps.push({ tensor: timesteps, of, shift: args.frequency_shift ?? 0 });
    this.labels = graph.inputArray('classifier labels', n);
    graph.persistent.add(this.#scale);
    const b = { graph, weights: model.weights };
    const { labels } = this;
    const { selected, logProbs } = graph.within('classifier', () =>
      classifier.select(graph, classifier.forward(b, args, { x: point, timesteps }), labels),
    );
    this.logProbs = logProbs;
    if (filter === null) this.result = graph.backward(selected, this.#scale, point, add);
    else {
      const ones = graph.constant('ones', vector(n, 1), 1);
      const plain = graph.backward(selected, ones, point, add);
      const filtered = filterGradient(graph, filter.kind, plain, this.#scale);
      this.result = filtered.y;
      this.filter = filtered.filter;
    }
    return this.result;
  }
}
