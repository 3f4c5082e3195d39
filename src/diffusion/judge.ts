/**
 * @file A classifier asked by itself: what it says of pictures at a noise level, and where its gradient points.
 *
 * For looking at a run that is not guided by a classifier, and at finished pictures. A guided step has the same values as
 * outputs of its own.
 */
import type { ShapedModel } from '../checkpoints/model.ts';
import * as classifier from '../layers/classifier.ts';
import { add } from '../layers/elementwise.ts';
import { timestepEmbedding } from '../layers/embedding.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph } from '../runtime/graph.ts';
import { Plan, type PlanOptions } from '../runtime/plan.ts';
import type { Activation, Shape, Tensor } from '../runtime/resources.ts';

export interface Judgement {
  /** log p(k | x) of every class, [N, classes]. */
  readonly logProbs: Float32Array;
  /** The gradient of log p(y | x) with respect to x, [N, C, H, W]. */
  readonly gradient: Float32Array;
}

interface Inputs {
  readonly x: Activation;
  readonly timesteps: Activation;
  readonly labels: Tensor;
}

interface Outputs {
  readonly logProbs: Activation;
  readonly gradient: Activation;
}

export class Judge {
  /** Of the pictures. */
  readonly shape: Shape;
  readonly classes: number;
  readonly #plan: Plan;
  readonly #inputs: Inputs;
  readonly #outputs: Outputs;

  private constructor(plan: Plan, inputs: Inputs, outputs: Outputs) {
    this.shape = inputs.x.shape;
    this.classes = outputs.logProbs.shape.c;
    this.#plan = plan;
    this.#inputs = inputs;
    this.#outputs = outputs;
  }

  /** @param batch pictures judged at once */
  static async create(
    runtime: Runtime,
    model: ShapedModel<'classifier'>,
    batch: number,
    options: PlanOptions = {},
  ): Promise<Judge> {
    if (!Number.isInteger(batch) || batch < 1) throw new OptionError(`batch should be at least 1, found ${batch}`);
    const args = model.config.model;
    const graph = new Graph(runtime.target);
    const vector = (c: number): Shape => ({ n: batch, h: 1, w: 1, c });
    const inputs: Inputs = {
      x: graph.input('x', { n: batch, c: args.in_channels, h: args.image_size, w: args.image_size }),
      timesteps: graph.input('timesteps', vector(args.model_channels)),
      labels: graph.inputArray('labels', batch),
    };
    const logits = classifier.forward({ graph, weights: model.weights }, args, inputs);
    const { selected, logProbs } = classifier.select(graph, logits, inputs.labels);
    const gradient = graph.backward(selected, graph.constant('ones', vector(1), 1), inputs.x, add);
    const plan = await Plan.create(runtime, graph, [logProbs, gradient], options);
    return new Judge(plan, inputs, { logProbs, gradient });
  }

  /**
   * @param x [N, C, H, W]
   * @param timestep the noise level, as the classifier is told it
   * @param labels the class y of each picture, for the gradient
   * @throws OptionError if a label is no class or the pictures are not N; the signal's reason if it is aborted
   */
  async judge(x: Float32Array, timestep: number, labels: readonly number[], signal?: AbortSignal): Promise<Judgement> {
    const { n, c, h, w } = this.shape;
    if (x.length !== n * c * h * w) {
      throw new OptionError(`the pictures should hold ${n * c * h * w} values, found ${x.length}`);
    }
    const wrong = labels.find((label) => !Number.isInteger(label) || label < 0 || label >= this.classes);
    if (labels.length !== n || wrong !== undefined) {
      throw new OptionError(`expected ${n} labels from 0 to ${this.classes - 1}, found ${JSON.stringify(labels)}`);
    }
    const { timesteps } = this.#inputs;
    this.#plan.write(this.#inputs.x, x);
    this.#plan.write(timesteps, timestepEmbedding(Array<number>(n).fill(timestep), timesteps.shape.c));
    this.#plan.write(this.#inputs.labels, Uint32Array.from(labels));
    await this.#plan.run(signal);
    const [logProbs, gradient] = await Promise.all([
      this.#plan.read(this.#outputs.logProbs),
      this.#plan.read(this.#outputs.gradient),
    ]);
    return { logProbs, gradient };
  }

  /** Milliseconds of GPU time that a judgement took last, or null before the first. */
  get runMs(): number | null {
    return this.#plan.runMs;
  }

  dispose(): void {
    this.#plan.dispose();
  }
}
