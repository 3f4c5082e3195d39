/**
 * @file What an independent classifier makes of pictures: the vector before its last layer, and its probabilities.
 */
import type { ClassifierModel } from '../checkpoints/model.ts';
import { imageBytes } from '../diffusion/image.ts';
import * as classifier from '../layers/classifier.ts';
import { timestepEmbedding } from '../layers/embedding.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { Graph } from '../runtime/graph.ts';
import { Plan } from '../runtime/plan.ts';
import type { Activation } from '../runtime/resources.ts';
import { type Vectors, vectors } from './vectors.ts';

export interface Judgement {
  readonly features: Vectors;
  /** log p(k | x), a row for each picture. */
  readonly logProbs: Vectors;
}

/** A classifier planned for a batch of clean pictures. */
export class FeatureExtractor {
  readonly #plan: Plan;
  readonly #batch: number;
  readonly #x: Activation;
  readonly #features: Activation;
  readonly #logits: Activation;

  private constructor(plan: Plan, batch: number, x: Activation, features: Activation, logits: Activation) {
    this.#plan = plan;
    this.#batch = batch;
    this.#x = x;
    this.#features = features;
    this.#logits = logits;
  }

  static async create(runtime: Runtime, model: ClassifierModel, batch: number): Promise<FeatureExtractor> {
    const args = model.config.model;
    const graph = new Graph(runtime.target);
    const x = graph.input('pictures', { n: batch, c: args.in_channels, h: args.image_size, w: args.image_size });
    const timesteps = graph.input('timesteps', { n: batch, h: 1, w: 1, c: args.model_channels });
    let features: Activation | null = null;
    const trace = (name: string, value: Activation) => {
      if (name === classifier.FEATURES) features = value;
    };
    const logits = classifier.forward({ graph, weights: model.weights }, args, { x, timesteps }, trace);
    if (!features) throw new Error('the classifier named no features');
    const plan = await Plan.create(runtime, graph, [features, logits]);
    plan.write(timesteps, timestepEmbedding(Array<number>(batch).fill(0), args.model_channels));
    return new FeatureExtractor(plan, batch, x, features, logits);
  }

  /**
   * Pictures are judged as they would be saved: clamped to [-1, 1], in 256 steps.
   *
   * @param samples [N, C, H, W] in about [-1, 1], any N
   */
  async judge(samples: Float32Array): Promise<Judgement> {
    const { c, h, w } = this.#x.shape;
    const picture = c * h * w;
    if (samples.length % picture !== 0) {
      throw new OptionError(`expected pictures of ${c} x ${h} x ${w} values, found ${samples.length} values`);
    }
    const saved = Float32Array.from(imageBytes(samples), (byte) => byte / 127.5 - 1);
    const count = samples.length / picture;
    const features: number[] = [];
    const logProbs: number[] = [];
    for (let first = 0; first < count; first += this.#batch) {
      const taken = Math.min(this.#batch, count - first);
      const filled = new Float32Array(this.#batch * picture);
      filled.set(saved.subarray(first * picture, (first + taken) * picture));
      this.#plan.write(this.#x, filled);
      await this.#plan.run();
      const width = this.#features.shape.c;
      const classes = this.#logits.shape.c;
      features.push(...(await this.#plan.read(this.#features)).subarray(0, taken * width));
      const logits = await this.#plan.read(this.#logits);
      for (let i = 0; i < taken; i++) logProbs.push(...logSoftmax(logits.subarray(i * classes, (i + 1) * classes)));
    }
    return {
      features: vectors(features, this.#features.shape.c),
      logProbs: vectors(logProbs, this.#logits.shape.c),
    };
  }

  dispose(): void {
    this.#plan.dispose();
  }
}

export function logSoftmax(logits: ArrayLike<number>): number[] {
  const list = Array.from(logits);
  const largest = Math.max(...list);
  const log = largest + Math.log(list.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  return list.map((value) => value - log);
}
