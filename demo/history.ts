/**
 * @file What is kept of a run: what each step's images looked like, and the figures of the plots. Pure.
 *
 * Figures are kept for every step, images as bytes. Long runs of large images would not fit, so when images exceed a
 * budget every second one is let go, and from then on only every second one is kept.
 */
import { imageBytes } from '../src/diffusion/image.ts';

export interface ImageShape {
  readonly n: number;
  readonly c: number;
  readonly h: number;
  readonly w: number;
}

/** How a step's images looked. Pixels in NCHW order. */
export interface Frame {
  /** The step, from 0. */
  readonly index: number;
  readonly x0: Uint8Array;
  readonly xt: Uint8Array;
  /** The classifier's gradient, [N, H, W], each image's largest magnitude being 127; null where there was none. */
  readonly heat: Int8Array | null;
}

/** What a step gives to be kept. */
export interface StepValues {
  readonly index: number;
  readonly timestep: number;
  /** sqrt(1 - abar) at the step's start: what turns eps into the score's size. */
  readonly noiseLevel: number;
  readonly x0: Float32Array;
  readonly xt: Float32Array;
  /** The model's prediction of the noise. */
  readonly eps: Float32Array;
  readonly logProbs: Float32Array | null;
  readonly gradient: Float32Array | null;
}

const BUDGET = 96e6;

export class History {
  readonly shape: ImageShape;
  readonly labels: readonly number[];
  /** Steps in the whole run. */
  readonly count: number;
  readonly timesteps: (number | undefined)[] = [];
  /** log p(k | x_t) of every class at the start of each step, [N, classes]; a hole where it is not known. */
  readonly logProbs: (Float32Array | undefined)[] = [];
  /** Norms of each image's gradient and score at the start of each step, [N]. */
  readonly gradientNorms: (Float64Array | undefined)[] = [];
  readonly scoreNorms: (Float64Array | undefined)[] = [];
  /** x after the last step that was recorded, unrounded. */
  last: Float32Array | null = null;
  /** Steps done, recorded or not. */
  done = 0;
  readonly #frames = new Map<number, Frame>();
  /** Heat maps of steps whose images are still to come. */
  readonly #early = new Map<number, Int8Array>();
  readonly #budget: number;
  #stride = 1;
  #bytes = 0;

  constructor(shape: ImageShape, labels: readonly number[], count: number, budget = BUDGET) {
    this.shape = shape;
    this.labels = labels;
    this.count = count;
    this.#budget = budget;
  }

  record(step: StepValues): void {
    const { index } = step;
    this.done = Math.max(this.done, index + 1);
    this.timesteps[index] = step.timestep;
    this.scoreNorms[index] = norms(step.eps, this.shape.n, 1 / step.noiseLevel);
    if (step.logProbs && step.gradient) this.judge(index, step.logProbs, step.gradient);
    this.last = step.xt;
    const xt = imageBytes(step.xt);
    // After the last step nothing is left to be predicted: what is shown is the result.
    const x0 = index === this.count - 1 ? xt : imageBytes(step.x0);
    const heat = step.gradient ? heatOf(step.gradient, this.shape) : (this.#early.get(index) ?? null);
    this.#early.delete(index);
    this.keep({ index, x0, xt, heat });
  }

  /** Takes in what a classifier says at the start of a step. */
  judge(index: number, logProbs: Float32Array, gradient: Float32Array): void {
    this.logProbs[index] = logProbs;
    this.gradientNorms[index] = norms(gradient, this.shape.n, 1);
    const frame = this.#frames.get(index);
    const heat = heatOf(gradient, this.shape);
    if (frame) this.#frames.set(index, { ...frame, heat });
    else if (index >= this.done) this.#early.set(index, heat);
  }

  keep(frame: Frame): void {
    this.done = Math.max(this.done, frame.index + 1);
    const last = frame.index === this.count - 1;
    if (frame.index % this.#stride !== 0 && !last) return;
    this.#frames.set(frame.index, frame);
    this.#bytes += sizeOf(frame);
    while (this.#bytes > this.#budget && this.#stride < this.count) {
      this.#stride *= 2;
      for (const [index, old] of this.#frames) {
        if (index % this.#stride === 0 || index === this.count - 1) continue;
        this.#frames.delete(index);
        this.#bytes -= sizeOf(old);
      }
    }
  }

  /** The images after `done` steps, or the nearest kept before them; null before the first. */
  frameAt(done: number): Frame | null {
    for (let index = Math.min(done, this.count) - 1; index >= 0; index--) {
      const frame = this.#frames.get(index);
      if (frame) return frame;
    }
    return null;
  }

  frames(): Frame[] {
    return [...this.#frames.values()].sort((a, b) => a.index - b.index);
  }

  /** Of one image over the steps up to `done`: log p of its class. NaN where it is not known. */
  logProbSeries(image: number, done = this.done): number[] {
    return this.#series(done, (index) => this.logProb(index, image));
  }

  normSeries(of: 'gradient' | 'score', image: number, done = this.done): number[] {
    const list = of === 'gradient' ? this.gradientNorms : this.scoreNorms;
    return this.#series(done, (index) => list[index]?.[image] ?? Number.NaN);
  }

  #series(done: number, value: (index: number) => number): number[] {
    return Array.from({ length: done }, (_, index) => value(index));
  }

  /** log p of an image's own class at the start of a step. */
  logProb(index: number, image: number): number {
    return this.classProbs(index, image)?.[this.labels[image]!] ?? Number.NaN;
  }

  /** log p of every class for an image, as last known at or before a step's start; null if never. */
  classProbs(index: number, image: number, exact = true): Float32Array | null {
    for (let i = index; i >= 0; i--) {
      const all = this.logProbs[i];
      if (all) {
        const classes = all.length / this.shape.n;
        return all.subarray(image * classes, (image + 1) * classes);
      }
      if (exact) return null;
    }
    return null;
  }
}

const sizeOf = ({ x0, xt, heat }: Frame): number => x0.length + (xt === x0 ? 0 : xt.length) + (heat?.length ?? 0);

/** Euclidean norm of each image. */
function norms(values: Float32Array, n: number, factor: number): Float64Array {
  const size = values.length / n;
  return Float64Array.from({ length: n }, (_, i) => {
    let sum = 0;
    for (let k = i * size; k < (i + 1) * size; k++) sum += values[k]! ** 2;
    return Math.sqrt(sum) * factor;
  });
}

/** A gradient as signed bytes, colours added up, each image scaled to its own largest magnitude. */
export function heatOf(gradient: Float32Array, { n, c, h, w }: ImageShape): Int8Array {
  const area = h * w;
  const heat = new Int8Array(n * area);
  const sums = new Float64Array(area);
  for (let i = 0; i < n; i++) {
    sums.fill(0);
    for (let k = 0; k < c * area; k++) sums[k % area]! += gradient[i * c * area + k]!;
    const peak = sums.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    if (peak > 0) for (let p = 0; p < area; p++) heat[i * area + p] = Math.round((127 * sums[p]!) / peak);
  }
  return heat;
}
