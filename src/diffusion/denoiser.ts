/**
 * @file A denoiser: a U-Net and its guidance, planned for a batch of pictures. Samplers drive it.
 *
 * What a sampler gets is a `Stepper`: one plan that holds the U-Net, the classifier with its gradient, and the sampler's
 * own arithmetic, so that a denoising step is one list of dispatches. x_t stays on the GPU from step to step.
 */
import type { UNetModel } from '../checkpoints/model.ts';
import * as classifier from '../layers/classifier.ts';
import { add, repeat } from '../layers/elementwise.ts';
import { timestepEmbedding } from '../layers/embedding.ts';
import * as unet from '../layers/unet.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph } from '../runtime/graph.ts';
import { Plan, type PlanOptions } from '../runtime/plan.ts';
import type { Activation, Shape, Tensor, Uniform } from '../runtime/resources.ts';
import { type GaussianDiffusion, modelTimestep, startCoefficients } from './gaussian_diffusion.ts';
import type { Guidance } from './guidance.ts';
import { type NoiseAddress, STREAM, seedWords } from './noise.ts';
import { gaussianNoise, predictStart, type StepInputs, type StepOutputs, splitOutput } from './step_operations.ts';

export interface DenoiserOptions {
  readonly unet: UNetModel;
  readonly guidance: Guidance;
  /** Pictures made at once. */
  readonly batch: number;
  /** Size in pixels; the U-Net's `image_size` by default. */
  readonly height?: number;
  readonly width?: number;
}

/** Where the noise of a step comes from: nowhere, the counter, or the caller. */
export type NoiseSource = 'none' | 'counter' | 'given';

/** A sampler's part of the plan. Equal keys stand for equal operations. */
export interface SamplerPart {
  readonly key: string;
  readonly noise: NoiseSource;
  append(graph: Graph, inputs: StepInputs): StepOutputs;
}

export class Denoiser {
  readonly runtime: Runtime;
  readonly unet: UNetModel;
  readonly guidance: Guidance;
  readonly shape: Shape;
  readonly #steppers = new Map<string, Promise<Stepper>>();

  /** @throws OptionError if U-Net, guidance and size do not go together */
  constructor(runtime: Runtime, { unet, guidance, batch, height, width }: DenoiserOptions) {
    const { model, nullClass } = unet.config;
    this.runtime = runtime;
    this.unet = unet;
    this.guidance = guidance;
    this.shape = { n: batch, c: model.in_channels, h: height ?? model.image_size, w: width ?? model.image_size };
    if (!Number.isInteger(batch) || batch < 1) throw new OptionError(`batch should be at least 1, found ${batch}`);
    const needsNull = guidance.kind === 'free' || (!guidance.conditional && model.num_classes !== null);
    if (needsNull && nullClass === null) {
      throw new OptionError(
        model.num_classes === null
          ? 'this U-Net knows no classes, so classifier-free guidance cannot be used with it'
          : 'this U-Net has no null class; use it with the class (conditional)',
      );
    }
    if (guidance.kind !== 'free' && guidance.conditional && model.num_classes === null) {
      throw new OptionError('this U-Net knows no classes; it cannot be conditional');
    }
    if (guidance.kind === 'classifier') {
      const theirs = guidance.classifier.config.model;
      if (
        theirs.in_channels !== model.in_channels ||
        theirs.image_size !== this.shape.h ||
        theirs.image_size !== this.shape.w
      ) {
        throw new OptionError(
          `the classifier takes ${theirs.in_channels} channels of ${theirs.image_size} x ${theirs.image_size}, the pictures are ${model.in_channels} channels of ${this.shape.h} x ${this.shape.w}`,
        );
      }
    }
  }

  /** The number of classes a label may name: those both the guidance and the U-Net know. */
  get classes(): number | null {
    const { model, nullClass } = this.unet.config;
    const ours = model.num_classes === null ? null : model.num_classes - (nullClass === null ? 0 : 1);
    const theirs = this.guidance.kind === 'classifier' ? this.guidance.classifier.config.model.out_channels : null;
    return ours === null ? theirs : theirs === null ? ours : Math.min(ours, theirs);
  }

  /** The plan for a sampler: built at the first call with its key, kept for the next ones. */
  stepper(part: SamplerPart, options: PlanOptions = {}): Promise<Stepper> {
    const key = `${part.key}|${part.noise}`;
    let stepper = this.#steppers.get(key);
    if (!stepper) {
      stepper = Stepper.create(this, part, options);
      this.#steppers.set(key, stepper);
      stepper.catch(() => this.#steppers.delete(key));
    }
    return stepper;
  }

  /** Frees all plans. The models stay. */
  dispose(): void {
    for (const stepper of this.#steppers.values()) {
      stepper.then(
        (s) => s.dispose(),
        () => {},
      );
    }
    this.#steppers.clear();
  }
}

/** Tensors and uniforms of a step that the host touches. */
interface StepGraph {
  readonly graph: Graph;
  readonly x: Activation;
  readonly timesteps: Activation;
  readonly labels: Tensor | null;
  readonly classifierTimesteps: Activation | null;
  readonly classifierLabels: Tensor | null;
  readonly scale: Activation | null;
  readonly prediction: Uniform;
  readonly coefficients: Uniform;
  readonly noise: Activation | null;
  readonly noiseAddress: Uniform | null;
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

/** Everything one denoising step does, as operations. Pure: needs no device. */
export function buildStep(
  {
    runtime,
    unet: model,
    guidance,
    shape,
  }: Pick<Denoiser, 'unet' | 'guidance' | 'shape'> & {
    readonly runtime: Pick<Runtime, 'target'>;
  },
  part: SamplerPart,
): StepGraph {
  const graph = new Graph(runtime.target);
  const args = model.config.model;
  const passes = guidance.kind === 'free' ? 2 : 1;
  const images = shape.n * passes;
  const vector = (n: number, c: number): Shape => ({ n, h: 1, w: 1, c });

  const x = graph.input('x_t', shape);
  const timesteps = graph.input('timesteps', vector(images, args.model_channels));
  const labels = args.num_classes === null ? null : graph.inputArray('labels', images);
  const scale = guidance.kind === 'none' ? null : graph.input('guidance scale', vector(shape.n, 1));
  const modelInput = passes === 1 ? x : repeat(graph, x, passes);
  const output = unet.forward({ graph, weights: model.weights }, args, { x: modelInput, timesteps, labels });
  const { mean, v } = splitOutput(graph, output, shape.c, guidance.kind === 'free' ? scale : null);
  const { start, prediction } = predictStart(graph, x, mean);

  let classifierTimesteps: Activation | null = null;
  let classifierLabels: Tensor | null = null;
  let gradient: Activation | null = null;
  let logProbs: Activation | null = null;
  if (guidance.kind === 'classifier') {
    const { config, weights } = guidance.classifier;
    classifierTimesteps = graph.input('classifier timesteps', vector(shape.n, config.model.model_channels));
    classifierLabels = graph.inputArray('classifier labels', shape.n);
    const inputs = { x, timesteps: classifierTimesteps };
    const logits = classifier.forward({ graph, weights }, config.model, inputs);
    const selection = classifier.select(graph, logits, classifierLabels);
    logProbs = selection.logProbs;
    // The scale is the seed of the backward pass, so that the gradient arrives multiplied by it, image by image.
    gradient = graph.backward(selection.selected, scale!, x, add);
  }

  let noise: Activation | null = null;
  let noiseAddress: Uniform | null = null;
  if (part.noise === 'given') noise = graph.input('noise', shape);
  if (part.noise === 'counter') {
    noise = graph.activation('noise', shape);
    noiseAddress = gaussianNoise(graph, noise);
  }
  const { coefficients, predXstart } = part.append(graph, { x, start, mean, v, gradient, noise });
  return {
    graph,
    x,
    timesteps,
    labels,
    classifierTimesteps,
    classifierLabels,
    scale,
    prediction,
    coefficients,
    noise,
    noiseAddress,
    outputs: { sample: x, predXstart, mean, v, gradient, logProbs },
  };
}

/** What holds for a whole run. */
export interface RunSettings {
  readonly process: GaussianDiffusion;
  /** A class for each picture, or null for none; ignored by an unguided, unconditional model. */
  readonly labels: readonly (number | null)[];
  /** Clamp the prediction of x_0 to [-1, 1]. */
  readonly clipDenoised: boolean;
  readonly seed: number;
  /** Number of the batch's first picture in the whole run: it addresses the noise. */
  readonly firstImage: number;
}

export class Stepper {
  readonly denoiser: Denoiser;
  readonly plan: Plan;
  readonly #step: StepGraph;
  readonly #start: { readonly plan: Plan; readonly address: Uniform };

  private constructor(denoiser: Denoiser, plan: Plan, step: StepGraph, start: { plan: Plan; address: Uniform }) {
    this.denoiser = denoiser;
    this.plan = plan;
    this.#step = step;
    this.#start = start;
  }

  static async create(denoiser: Denoiser, part: SamplerPart, options: PlanOptions): Promise<Stepper> {
    const step = buildStep(denoiser, part);
    const outputs = Object.values(step.outputs).filter((t) => t !== null);
    const plan = await Plan.create(denoiser.runtime, step.graph, outputs, options);
    try {
      const graph = new Graph(denoiser.runtime.target);
      graph.persistent.add(step.x);
      const address = gaussianNoise(graph, step.x);
      const shared = new Map([[step.x, plan.bufferOf(step.x)]]);
      const start = await Plan.create(denoiser.runtime, graph, [], { shared, signal: options.signal });
      return new Stepper(denoiser, plan, step, { plan: start, address });
    } catch (error) {
      plan.dispose();
      throw error;
    }
  }

  /** Sets what holds for a whole run. @throws OptionError if a label is no class */
  begin({ labels }: RunSettings): void {
    const { guidance, unet, shape, classes } = this.denoiser;
    const { labels: unetLabels, classifierLabels } = this.#step;
    const { nullClass } = unet.config;
    const told = guidance.kind === 'free' || guidance.conditional;
    if (told || guidance.kind === 'classifier') {
      if (labels.length !== shape.n) throw new OptionError(`expected ${shape.n} labels, found ${labels.length}`);
      const wrong = labels.find((l) => l !== null && (!Number.isInteger(l) || l < 0 || l >= classes!));
      if (wrong !== undefined) throw new OptionError(`a label should be from 0 to ${classes! - 1}, found ${wrong}`);
      if (told && nullClass === null && labels.includes(null)) {
        throw new OptionError('this U-Net has no null class, so every picture needs a label');
      }
    }
    if (unetLabels) {
      const none = Array<number>(shape.n).fill(nullClass ?? 0);
      const asked = labels.map((label) => label ?? nullClass ?? 0);
      this.plan.write(
        unetLabels,
        Uint32Array.from(guidance.kind === 'free' ? [...asked, ...none] : told ? asked : none),
      );
    }
    // A picture without a class is given any: its scale is 0.
    if (classifierLabels)
      this.plan.write(
        classifierLabels,
        Uint32Array.from(labels, (label) => label ?? 0),
      );
  }

  /** Sets x_t. @param sample [N, C, H, W] */
  setSample(sample: Float32Array): void {
    this.plan.write(this.#step.x, sample);
  }

  /** Makes x_T from the seed, on the GPU. */
  async startFromNoise({ seed, firstImage }: RunSettings): Promise<void> {
    this.#start.plan.set(this.#start.address, noiseAddress({ seed, firstImage, step: 0, stream: STREAM.start }));
    await this.#start.plan.run();
  }

  /** Sets the guidance scale, one number for each picture. Without effect where there is no guidance. */
  setScale(scale: readonly number[]): void {
    if (this.#step.scale) this.plan.write(this.#step.scale, Float32Array.from(scale));
  }

  /** Sets the noise of the next step, where it is the caller's to give. @param noise [N, C, H, W] */
  setNoise(noise: Float32Array): void {
    if (this.#step.noise) this.plan.write(this.#step.noise, noise);
  }

  /**
   * Submits the step from timestep `t` of the respaced process.
   *
   * @param coefficients fields of the sampler's uniform
   */
  async step(
    { process, clipDenoised, seed, firstImage }: RunSettings,
    t: number,
    coefficients: Readonly<Record<string, number>>,
    signal?: AbortSignal,
  ): Promise<void> {
    const { timesteps, classifierTimesteps, prediction, coefficients: uniform, noiseAddress: address } = this.#step;
    const told = modelTimestep(process, t);
    for (const tensor of [timesteps, classifierTimesteps]) {
      if (!tensor) continue;
      const row = Array<number>(tensor.shape.n).fill(told);
      this.plan.write(tensor, timestepEmbedding(row, tensor.shape.c));
    }
    const factors = startCoefficients(process, t);
    this.plan.set(prediction, {
      x_factor: factors.x,
      output_factor: factors.output,
      limit: clipDenoised ? 1 : 3e38,
    });
    this.plan.set(uniform, coefficients);
    if (address) this.plan.set(address, noiseAddress({ seed, firstImage, step: t, stream: STREAM.step }));
    await this.plan.run(signal);
  }

  /** The value of an output after the last step, NCHW; null where this denoiser has none. */
  async read(output: StepOutput): Promise<Float32Array | null> {
    const tensor = this.#step.outputs[output];
    return tensor && this.plan.read(tensor);
  }

  dispose(): void {
    this.#start.plan.dispose();
    this.plan.dispose();
  }
}

function noiseAddress({ seed, firstImage, step, stream }: NoiseAddress): Record<string, number> {
  const [low, high] = seedWords(seed);
  return { seed_low: low, seed_high: high, first_image: firstImage, step, stream };
}
