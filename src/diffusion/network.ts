/**
 * @file One model by itself: a pass forward, and the gradient back to its input, for a batch of a fixed size.
 *
 * What samplers do with models is in denoiser.ts; this is for those who want the network and nothing around it: to measure
 * it, to compare it, or to write a sampler of another kind.
 *
 *   const model = buildModel(runtime, { tensors, metadata: new Map() }, config);
 *   const network = await Network.create(runtime, model, { batch: 1, gradient: true });
 *   network.set({ x, timesteps: [417], labels: [3] });
 *   await network.run();
 *   const gradient = await network.read('gradient');
 */
import { timestepEmbedding } from '../layers/embedding.ts';
import { type BuildableModel, buildNetwork, type NetworkGraph, type NetworkSize } from '../layers/network.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { Plan, type PlanOptions } from '../runtime/plan.ts';
import type { Shape } from '../runtime/resources.ts';

export interface NetworkOptions extends PlanOptions, NetworkSize {
  /**
   * Also the gradient with respect to x: of a classifier's log p(y | x), of a U-Net's output times `upstream`.
   */
  readonly gradient?: boolean;
}

export interface NetworkInputs {
  /** [N, C, H, W]. */
  readonly x?: Float32Array;
  /** One for each image, as the model is told it. */
  readonly timesteps?: readonly number[];
  /** One for each image: what a class-conditional U-Net is told, or the y of a classifier's log p(y | x). */
  readonly labels?: readonly number[];
  /** [N, C, h, w], for a super-resolution model. */
  readonly lowRes?: Float32Array;
  /** The gradient of whatever is wanted with respect to a U-Net's output, of its shape. */
  readonly upstream?: Float32Array;
}

export type NetworkOutput = 'output' | 'gradient' | 'logProbs';

export class Network {
  readonly #plan: Plan;
  readonly #made: NetworkGraph;

  private constructor(plan: Plan, made: NetworkGraph) {
    this.#plan = plan;
    this.#made = made;
  }

  /** Plans, compiles and packs. @throws OptionError if the sizes do not go through such a model */
  static async create(runtime: Runtime, model: BuildableModel, options: NetworkOptions): Promise<Network> {
    const made = buildNetwork(runtime.target, model, options, options.gradient ?? false);
    const { output, gradient, logProbs } = made.outputs;
    const wanted = [output, gradient, logProbs].filter((tensor) => tensor !== null);
    return new Network(await Plan.create(runtime, made.graph, wanted, options), made);
  }

  /** Sets inputs; what is left out stays as it was. @throws OptionError for an input this network does not have */
  set({ x, timesteps, labels, lowRes, upstream }: NetworkInputs): void {
    const { inputs } = this.#made;
    const write = (name: keyof typeof inputs, data: Float32Array | Uint32Array | undefined) => {
      if (data === undefined) return;
      const tensor = inputs[name];
      if (!tensor) throw new OptionError(`this network has no input ${name}`);
      this.#plan.write(tensor, data);
    };
    write('x', x);
    write('timesteps', timesteps && timestepEmbedding(timesteps, inputs.timesteps.shape.c));
    write('labels', labels && Uint32Array.from(labels));
    write('lowRes', lowRes);
    write('upstream', upstream);
  }

  /** Submits one pass. Resolves when all of it is submitted, which may be before it is done. */
  run(signal?: AbortSignal): Promise<void> {
    return this.#plan.run(signal);
  }

  /** The result of the last pass, NCHW. @throws OptionError if this network was not made with it */
  read(name: NetworkOutput): Promise<Float32Array> {
    const tensor = this.#made.outputs[name];
    if (!tensor) throw new OptionError(`this network was made without ${name}`);
    return this.#plan.read(tensor);
  }

  /** Dispatches of a pass. */
  get dispatches(): number {
    return this.#plan.schedule.calls.length;
  }

  /** Of x, [N, C, H, W]. */
  get shape(): Shape {
    return this.#made.inputs.x.shape;
  }

  /** Milliseconds of GPU time that a pass took last, or null before the first. */
  get runMs(): number | null {
    return this.#plan.runMs;
  }

  dispose(): void {
    this.#plan.dispose();
  }
}
