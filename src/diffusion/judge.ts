/**
 * @file A classifier asked by itself: what it says of pictures at a noise level, and where its gradient points.
 *
 * For looking at a run that is not guided by a classifier, and at finished pictures. A guided step has the same values as
 * outputs of its own.
 */
import type { ShapedModel } from '../checkpoints/model.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import type { PlanOptions } from '../runtime/plan.ts';
import type { Shape } from '../runtime/resources.ts';
import { Network } from './network.ts';

export interface Judgement {
  /** log p(k | x) of every class, [N, classes]. */
  readonly logProbs: Float32Array;
  /** The gradient of log p(y | x) with respect to x, [N, C, H, W]. */
  readonly gradient: Float32Array;
}

export class Judge {
  readonly classes: number;
  readonly #network: Network;

  private constructor(network: Network, classes: number) {
    this.#network = network;
    this.classes = classes;
  }

  /** @param batch pictures judged at once */
  static async create(
    runtime: Runtime,
    model: ShapedModel<'classifier'>,
    batch: number,
    options: PlanOptions = {},
  ): Promise<Judge> {
    const network = await Network.create(runtime, model, { ...options, batch, gradient: true });
    return new Judge(network, model.config.model.out_channels);
  }

  /** Of the pictures. */
  get shape(): Shape {
    return this.#network.shape;
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
    const network = this.#network;
    network.set({ x, timesteps: Array<number>(n).fill(timestep), labels });
    await network.run(signal);
    const [logProbs, gradient] = await Promise.all([network.read('logProbs'), network.read('gradient')]);
    return { logProbs, gradient };
  }

  /** Milliseconds of GPU time that a judgement took last, or null before the first. */
  get runMs(): number | null {
    return this.#network.runMs;
  }

  dispose(): void {
    this.#network.dispose();
  }
}
