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
import type { ModelConfig } from '../checkpoints/config.ts';
import * as classifier from '../layers/classifier.ts';
import { add } from '../layers/elementwise.ts';
import { timestepEmbedding } from '../layers/embedding.ts';
import * as superResolution from '../layers/super_resolution.ts';
import * as unet from '../layers/unet.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph } from '../runtime/graph.ts';
import { Plan, type PlanOptions } from '../runtime/plan.ts';
import type { Activation, Shape, Tensor } from '../runtime/resources.ts';
import type { WeightShapes } from '../runtime/weights.ts';

/** A model of any kind, as `loadModel` and `buildModel` give it. */
export interface AnyModel {
  readonly config: ModelConfig;
  readonly weights: WeightShapes;
}

export interface NetworkOptions extends PlanOptions {
  readonly batch: number;
  /** Of the input; the model's `image_size` by default. */
  readonly height?: number;
  readonly width?: number;
  /** Of the smaller picture, for a super-resolution model. */
  readonly lowRes?: { readonly height: number; readonly width: number };
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

interface Inputs {
  readonly x: Activation;
  readonly timesteps: Activation;
  readonly labels: Tensor | null;
  readonly lowRes: Activation | null;
  readonly upstream: Activation | null;
}

export class Network {
  readonly #plan: Plan;
  readonly #inputs: Inputs;
  readonly #outputs: Readonly<Record<NetworkOutput, Activation | null>>;

  private constructor(plan: Plan, inputs: Inputs, outputs: Readonly<Record<NetworkOutput, Activation | null>>) {
    this.#plan = plan;
    this.#inputs = inputs;
    this.#outputs = outputs;
  }

  /** Plans, compiles and packs. @throws OptionError if the sizes do not go through such a model */
  static async create(runtime: Runtime, { config, weights }: AnyModel, options: NetworkOptions): Promise<Network> {
    const { batch, gradient = false } = options;
    if (!Number.isInteger(batch) || batch < 1) throw new OptionError(`batch should be at least 1, found ${batch}`);
    const graph = new Graph(runtime.target);
    const { in_channels: c, image_size, model_channels } = config.model;
    const shape: Shape = { n: batch, c, h: options.height ?? image_size, w: options.width ?? image_size };
    const classes = config.kind === 'classifier' ? config.model.out_channels : config.model.num_classes;
    const labelled = classes !== null && (config.kind !== 'classifier' || gradient);
    if ((config.kind === 'super_resolution') !== (options.lowRes !== undefined)) {
      throw new OptionError(
        'lowRes, the size of the smaller picture, is for super-resolution models, and needed there',
      );
    }
    const inputs = {
      x: graph.input('x', shape),
      timesteps: graph.input('timesteps', { n: batch, h: 1, w: 1, c: model_channels }),
      labels: labelled ? graph.inputArray('labels', batch) : null,
      lowRes: options.lowRes
        ? graph.input('low_res', { ...shape, h: options.lowRes.height, w: options.lowRes.width })
        : null,
    };
    const b = { graph, weights };
    let upstream: Activation | null = null;
    let output: Activation;
    let result: Activation | null = null;
    let logProbs: Activation | null = null;
    if (config.kind === 'classifier') {
      output = classifier.forward(b, config.model, inputs);
      if (inputs.labels) {
        const selection = classifier.select(graph, output, inputs.labels);
        logProbs = selection.logProbs;
        const ones = graph.constant('ones', selection.selected.shape, 1);
        result = graph.backward(selection.selected, ones, inputs.x, add);
      }
    } else {
      output =
        config.kind === 'unet'
          ? unet.forward(b, config.model, inputs)
          : superResolution.forward(b, config.model, { ...inputs, lowRes: inputs.lowRes! });
      if (gradient) {
        upstream = graph.input('upstream', output.shape);
        result = graph.backward(output, upstream, inputs.x, add);
      }
    }
    const outputs = { output, gradient: result, logProbs };
    const wanted = Object.values(outputs).filter((tensor) => tensor !== null);
    return new Network(await Plan.create(runtime, graph, wanted, options), { ...inputs, upstream }, outputs);
  }

  /** Sets inputs; what is left out stays as it was. @throws OptionError for an input this network does not have */
  set({ x, timesteps, labels, lowRes, upstream }: NetworkInputs): void {
    const inputs = this.#inputs;
    const write = (name: keyof Inputs, data: Float32Array | Uint32Array | undefined) => {
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
    const tensor = this.#outputs[name];
    if (!tensor) throw new OptionError(`this network was made without ${name}`);
    return this.#plan.read(tensor);
  }

  /** Dispatches of a pass. */
  get dispatches(): number {
    return this.#plan.schedule.calls.length;
  }

  dispose(): void {
    this.#plan.dispose();
  }
}
