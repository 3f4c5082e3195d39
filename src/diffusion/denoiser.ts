/**
 * @file A denoiser: a model and its guidance, planned for a batch of pictures. Samplers drive it.
 *
 * What a sampler gets is a `Stepper`: the step of step.ts with buffers and pipelines, so that a denoising step is one list
 * of dispatches. x_t stays on the GPU from step to step.
 */
import { timestepEmbedding } from '../layers/embedding.ts';
import type { Runtime } from '../runtime/device.ts';
import { NonFiniteError, OptionError } from '../runtime/errors.ts';
import { Graph } from '../runtime/graph.ts';
import { Plan, type PlanOptions } from '../runtime/plan.ts';
import type { Activation, Shape, Tensor, Uniform } from '../runtime/resources.ts';
import { type GaussianDiffusion, modelTimestep, startCoefficients } from './gaussian_diffusion.ts';
import { type Guidance, guidanceKey } from './guidance.ts';
import { type NoiseAddress, STREAM, seedWords } from './noise.ts';
import {
  buildStep,
  type DenoisingModel,
  type SamplerPart,
  type StepFeatures,
  type StepGraph,
  type StepOutput,
} from './step.ts';
import { gaussianNoise, NO_LIMIT } from './step_operations.ts';

export interface DenoiserOptions {
  readonly unet: DenoisingModel;
  readonly guidance: Guidance;
  /** Pictures made at once. */
  readonly batch: number;
  /** Size in pixels; the model's `image_size` by default. */
  readonly height?: number;
  readonly width?: number;
  /** Size of the smaller picture that a super-resolution model sees. */
  readonly lowRes?: { readonly height: number; readonly width: number };
  /**
   * Bytes that a step may allocate for activations. What does not fit is computed anew where it is read again, with the
   * same results: see docs/performance.md. With a hook (`denoisedFn`) a step is two plans, and each may take so much.
   */
  readonly memoryBudget?: number;
}

export class Denoiser {
  readonly runtime: Runtime;
  readonly unet: DenoisingModel;
  readonly guidance: Guidance;
  readonly shape: Shape;
  readonly lowRes: { readonly h: number; readonly w: number } | null;
  readonly memoryBudget: number | undefined;
  readonly #steppers = new Map<string, Promise<Stepper>>();

  /** @throws OptionError if model, guidance and size do not go together */
  constructor(runtime: Runtime, { unet, guidance, batch, height, width, lowRes, memoryBudget }: DenoiserOptions) {
    const { model, nullClass } = unet.config;
    this.runtime = runtime;
    this.unet = unet;
    this.guidance = guidance;
    this.shape = { n: batch, c: model.in_channels, h: height ?? model.image_size, w: width ?? model.image_size };
    this.lowRes = lowRes ? { h: lowRes.height, w: lowRes.width } : null;
    this.memoryBudget = memoryBudget;
    if (!Number.isInteger(batch) || batch < 1) throw new OptionError(`batch should be at least 1, found ${batch}`);
    if ((unet.config.kind === 'super_resolution') !== (lowRes !== undefined)) {
      throw new OptionError(
        lowRes
          ? 'this model sees no smaller picture; it is no super-resolution model'
          : 'a super-resolution model needs the size of the smaller picture (lowRes)',
      );
    }
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
    if (guidance.kind === 'classifier') checkClassifier(guidance.classifier.config.model, this.shape);
  }

  /** The number of classes a label may name: those both the guidance and the U-Net know. */
  get classes(): number | null {
    const { model, nullClass } = this.unet.config;
    const ours = model.num_classes === null ? null : model.num_classes - (nullClass === null ? 0 : 1);
    const theirs = this.guidance.kind === 'classifier' ? this.guidance.classifier.config.model.out_channels : null;
    return ours === null ? theirs : theirs === null ? ours : Math.min(ours, theirs);
  }

  /**
   * The plan for a sampler: built at the first call with its key, kept for the next ones.
   *
   * @throws OptionError if no way was found to stay within the memory budget
   */
  stepper(part: SamplerPart, features: StepFeatures, options: PlanOptions = {}): Promise<Stepper> {
    const checks = options.checkFinite ?? false;
    const key = [part.key, part.noise, guidanceKey(this.guidance), ...Object.values(features), checks].join('|');
    let stepper = this.#steppers.get(key);
    if (!stepper) {
      stepper = Stepper.create(this, part, features, options);
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

function checkClassifier(theirs: { in_channels: number; image_size: number }, { c, h, w }: Shape): void {
  if (theirs.in_channels === c && theirs.image_size === h && theirs.image_size === w) return;
  throw new OptionError(
    `the classifier takes ${theirs.in_channels} channels of ${theirs.image_size} x ${theirs.image_size}, the pictures are ${c} channels of ${h} x ${w}`,
  );
}

/** What holds for a whole run. */
export interface RunSettings {
  readonly process: GaussianDiffusion;
  /** A class for each picture, or null for none; ignored by an unguided, unconditional model. */
  readonly labels: readonly (number | null)[];
  /** Clamp the prediction of x_0 to [-1, 1]. */
  readonly clipDenoised: boolean;
  /** The quantile of each picture's own threshold, where the plan has one. */
  readonly dynamicThreshold: number | null;
  readonly seed: number;
  /** Number of the batch's first picture in the whole run: it addresses the noise. */
  readonly firstImage: number;
}

/** One evaluation of the models and what the sampler does with it. */
export interface Evaluation {
  /** Timestep of the respaced process that x is at. */
  readonly t: number;
  /** The one it is led to; -1 for x_0. */
  readonly next: number;
  /** Fields of the sampler's uniforms, by their names. */
  readonly coefficients: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** The prediction of x_0, changed on the host. NCHW in, NCHW out. */
export type DenoisedFunction = (predXstart: Float32Array) => Float32Array | Promise<Float32Array>;

export class Stepper {
  readonly denoiser: Denoiser;
  /** In the order in which they run. */
  readonly plans: readonly Plan[];
  readonly #step: StepGraph;
  readonly #begin: { readonly plan: Plan; readonly address: Uniform };
  /** Evaluations so far in this run. */
  #evaluations = 0;

  private constructor(
    denoiser: Denoiser,
    plans: readonly Plan[],
    step: StepGraph,
    begin: { plan: Plan; address: Uniform },
  ) {
    this.denoiser = denoiser;
    this.plans = plans;
    this.#step = step;
    this.#begin = begin;
  }

  static async create(
    denoiser: Denoiser,
    part: SamplerPart,
    features: StepFeatures,
    options: PlanOptions,
  ): Promise<Stepper> {
    const { runtime, unet: model, guidance, shape, lowRes, memoryBudget } = denoiser;
    const step = buildStep(runtime.target, { model, guidance, shape, lowRes }, part, features);
    const plans: Plan[] = [];
    try {
      const wanted = [...new Set([...Object.values(step.outputs), step.start])].filter((t) => t !== null);
      const shared = new Map<Tensor, GPUBuffer>();
      for (const graph of step.graphs) {
        const outputs = wanted.filter(
          (t) => graph.persistent.has(t) || graph.operations.some((o) => o.outputs.includes(t)),
        );
        const plan = await Plan.create(runtime, graph, outputs, { ...options, memoryBudget, shared });
        plans.push(plan);
        for (const tensor of [...outputs, ...graph.persistent]) {
          if (plan.has(tensor) && !shared.has(tensor)) shared.set(tensor, plan.bufferOf(tensor));
        }
      }
      const graph = new Graph(runtime.target);
      graph.persistent.add(step.x);
      const address = gaussianNoise(graph, step.x);
      plans.push(await Plan.create(runtime, graph, [], { shared, signal: options.signal }));
      return new Stepper(denoiser, plans.slice(0, -1), step, { plan: plans.at(-1)!, address });
    } catch (error) {
      for (const plan of plans) plan.dispose();
      throw error;
    }
  }

  /** Milliseconds of GPU time that an evaluation took last, or null before the first. */
  get evaluationMs(): number | null {
    return this.plans.reduce<number | null>(
      (sum, { runMs }) => (sum === null || runMs === null ? null : sum + runMs),
      0,
    );
  }

  /** Sets what holds for a whole run. @throws OptionError if a label is no class */
  begin({ labels, dynamicThreshold }: RunSettings): void {
    const { guidance, unet, shape, classes } = this.denoiser;
    const { labels: unetLabels, classifierLabels, uniforms } = this.#step;
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
      this.#write(unetLabels, Uint32Array.from(guidance.kind === 'free' ? [...asked, ...none] : told ? asked : none));
    }
    // A picture without a class is given any: its scale is 0.
    if (classifierLabels)
      this.#write(
        classifierLabels,
        Uint32Array.from(labels, (label) => label ?? 0),
      );
    if (uniforms.threshold) this.#set(uniforms.threshold, { quantile: dynamicThreshold ?? 1 });
    this.#evaluations = 0;
  }

  #write(tensor: Tensor, data: Float32Array | Uint32Array): void {
    this.plans.find((plan) => plan.has(tensor))?.write(tensor, data);
  }

  #set(uniform: Uniform | null, values: Readonly<Record<string, number>>): void {
    if (uniform) this.plans.find((plan) => plan.hasUniform(uniform))?.set(uniform, values);
  }

  /** Sets x_t. @param sample [N, C, H, W] */
  setSample(sample: Float32Array): void {
    this.#write(this.#step.x, sample);
  }

  /** Makes x_T from the seed, on the GPU. */
  async startFromNoise({ seed, firstImage }: RunSettings): Promise<void> {
    this.#begin.plan.set(this.#begin.address, noiseAddress({ seed, firstImage, step: 0, stream: STREAM.start }));
    await this.#begin.plan.run();
  }

  /** Sets the guidance scale, one number for each picture. Without effect where there is no guidance. */
  setScale(scale: readonly number[]): void {
    if (this.#step.scale) this.#write(this.#step.scale, Float32Array.from(scale));
  }

  /** Sets the noise of the next step, where it is the caller's to give. @param noise [N, C, H, W] */
  setNoise(noise: Float32Array): void {
    if (this.#step.noise) this.#write(this.#step.noise, noise);
  }

  /** Sets the smaller picture of a super-resolution model. @param lowRes [N, C, h, w] */
  setLowRes(lowRes: Float32Array): void {
    if (this.#step.lowRes) this.#write(this.#step.lowRes, lowRes);
  }

  /** Sets what is known of the picture and where it is to be made (1). @param picture, mask [N, C, H, W] */
  setKnown(picture: Float32Array, mask: Float32Array): void {
    if (!this.#step.known) return;
    this.#write(this.#step.known.picture, picture);
    this.#write(this.#step.known.mask, mask);
  }

  /** Submits one evaluation and what the sampler does with it. */
  async evaluate(
    settings: RunSettings,
    { t, next, coefficients }: Evaluation,
    { signal, hook }: { signal?: AbortSignal | undefined; hook?: DenoisedFunction | undefined } = {},
  ): Promise<void> {
    this.#prepare(settings, t, next);
    for (const [name, values] of Object.entries(coefficients))
      this.#set(this.#step.uniforms.sampler[name] ?? null, values);
    const [first, second] = this.plans;
    await first!.run(signal);
    if (second) {
      const { start } = this.#step;
      if (hook) second.write(start, await hook(await first!.read(start)));
      await second.run(signal);
    }
    this.#evaluations++;
  }

  /** Submits the models alone, each picture at its own timestep, given as the model is told it. */
  async predict(timesteps: readonly number[], signal?: AbortSignal): Promise<void> {
    for (const { tensor, shift } of this.#step.timesteps) {
      this.#write(tensor, timestepEmbedding(timesteps, tensor.shape.c, 10000, shift));
    }
    await this.plans[0]!.run(signal);
  }

  /** Everything that follows from the timestep alone. */
  #prepare(settings: RunSettings, t: number, next: number): void {
    const { process, clipDenoised, dynamicThreshold, seed, firstImage } = settings;
    const { timesteps, uniforms } = this.#step;
    for (const { tensor, of, shift } of timesteps) {
      const told = modelTimestep(process, Math.max(0, of === 'current' ? t : next));
      const all = Array<number>(tensor.shape.n).fill(told);
      this.#write(tensor, timestepEmbedding(all, tensor.shape.c, 10000, shift));
    }
    const factors = startCoefficients(process, t);
    const limit = clipDenoised && dynamicThreshold === null ? 1 : NO_LIMIT;
    this.#set(uniforms.prediction, { a_factor: factors.x, b_factor: factors.output, limit });
    const score = process.sqrt_recipm1_alphas_cumprod[t]! * process.sqrt_one_minus_alphas_cumprod[t]!;
    this.#set(uniforms.scoreGuidance, { a_factor: 1, b_factor: score, limit: NO_LIMIT });
    const abar = next < 0 ? 1 : process.alphas_cumprod[next]!;
    this.#set(uniforms.knownLevel, { start_factor: Math.sqrt(abar), noise_factor: Math.sqrt(1 - abar) });
    this.#set(uniforms.filter, this.#filterFactors());
    const address = (stream: NoiseAddress['stream']) => noiseAddress({ seed, firstImage, step: t, stream });
    this.#set(uniforms.stepNoise, address(STREAM.step));
    this.#set(uniforms.knownNoise, address(STREAM.known));
  }

  #filterFactors(): Record<string, number> {
    const { guidance } = this.denoiser;
    const filter = guidance.kind === 'classifier' ? guidance.filter : null;
    const k = this.#evaluations + 1;
    if (filter?.kind === 'momentum') return { keep1: k === 1 ? 0 : filter.beta, new1: 1 };
    if (filter?.kind !== 'adam') return {};
    const { beta1, beta2, eps } = filter;
    return {
      keep1: k === 1 ? 0 : beta1,
      keep2: k === 1 ? 0 : beta2,
      new1: 1 - beta1,
      new2: 1 - beta2,
      correct1: 1 / (1 - beta1 ** k),
      correct2: 1 / (1 - beta2 ** k),
      eps,
    };
  }

  /**
   * With `checkFinite`: throws if anything so far wrote NaN or infinity.
   *
   * @param where in words, for the message
   */
  async assertFinite(where: string): Promise<void> {
    for (const plan of this.plans) {
      if (!plan.schedule.flags) return;
      const operation = await plan.firstNonFinite();
      if (operation !== null) throw new NonFiniteError(operation, where);
    }
  }

  /** The value of an output after the last evaluation, NCHW; null where this denoiser has none. */
  async read(output: StepOutput): Promise<Float32Array | null> {
    const tensor: Activation | null = this.#step.outputs[output];
    if (!tensor) return null;
    const plan = [...this.plans].reverse().find((p) => p.isOutput(tensor));
    return plan!.read(tensor);
  }

  dispose(): void {
    this.#begin.plan.dispose();
    for (const plan of this.plans) plan.dispose();
  }
}

function noiseAddress({ seed, firstImage, step, stream }: NoiseAddress): Record<string, number> {
  const [low, high] = seedWords(seed);
  return { seed_low: low, seed_high: high, first_image: firstImage, step, stream };
}
