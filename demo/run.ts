/**
 * @file One run of a sampler, as the page needs it: it can stop and go on, and records what each step looked like without
 * holding the sampler up.
 *
 * How the previews stay cheap: the readers of a step put their copies into the queue at once, in front of the next step's
 * work, and are waited for only after the next step has been submitted. So the GPU never waits for the page. Where steps
 * are so short that reading takes longer than they do, a step is not recorded while the one before is still on its way.
 */

import { modelTimestep } from '../src/diffusion/gaussian_diffusion.ts';
import { STREAM } from '../src/diffusion/noise.ts';
import {
  type DdimOptions,
  type Denoiser,
  ddim,
  ddpm,
  dpmSolver,
  type GaussianDiffusion,
  gaussianNoise,
  heun,
  type Judge,
  type SamplingStep,
} from '../src/index.ts';
import { History } from './history.ts';
import type { SamplerName } from './settings.ts';

const SAMPLER = { ddim, ddpm, dpm: dpmSolver, heun } as const;

/** Steps shorter than this are not waited for. */
const SHORT_STEP_MS = 8;

/** A separate judgement may take this share of the run's time. */
const JUDGE_SHARE = 0.08;

export interface RunOptions {
  readonly denoiser: Denoiser;
  readonly process: GaussianDiffusion;
  readonly respacing: string;
  readonly sampler: SamplerName;
  readonly labels: readonly number[];
  readonly scale: number | readonly number[];
  readonly eta: number;
  readonly seed: number;
  /** All images start from the noise of this one, and have its noise in each step. */
  readonly sameImage?: number;
  /** A classifier to ask where the run has none of its own. */
  readonly judge?: Promise<Judge> | null;
  /** Read back each step. */
  readonly record?: boolean;
  /** For compiling. */
  readonly signal: AbortSignal;
  readonly onCompile?: (done: number, total: number) => void;
  /** After a step was submitted. */
  readonly onStep?: (run: Run) => void;
  /** After a step's images and figures have arrived. */
  readonly onRecord?: (run: Run) => void;
}

export type RunEnd = 'done' | 'stopped';

export class Run {
  readonly history: History;
  /** Milliseconds of each step but the first, which may still be loading. */
  readonly intervals: number[] = [];
  readonly #options: RunOptions;
  readonly #steps: AsyncGenerator<SamplingStep, void, undefined>;
  /** x_t before each step that a separate judge has not seen yet. */
  readonly #unjudged = new Map<number, Float32Array>();
  #judge: Judge | null = null;
  /** Milliseconds spent on judging since the first step began. */
  #judging = 0;
  #started = 0;
  #reading: Promise<void> | null = null;
  #readingDone = true;
  #failure: unknown = null;
  #stopping = false;
  #lastYield: number | null = null;
  #before: Float32Array | null = null;
  ended = false;
  /** Steps submitted. */
  submitted = 0;

  constructor(options: RunOptions) {
    this.#options = options;
    const { denoiser, process, labels, sampler, scale, seed, eta, respacing, signal, onCompile } = options;
    this.history = new History(denoiser.shape, labels, process.length);
    const sampling: DdimOptions = {
      labels,
      scale,
      seed,
      respacing,
      signal,
      ...(sampler === 'ddim' ? { eta } : {}),
      ...(onCompile ? { onCompile } : {}),
      ...sameNoise(options),
    };
    this.#steps = SAMPLER[sampler](denoiser, sampling);
  }

  get count(): number {
    return this.history.count;
  }

  /** The median step, or null before two were taken. */
  get stepMs(): number | null {
    if (this.intervals.length === 0) return null;
    const sorted = [...this.intervals].sort((a, b) => a - b);
    return sorted[sorted.length >> 1]!;
  }

  /** Steps until the end, or until `stop`: then calling it again goes on. */
  async advance(): Promise<RunEnd> {
    this.#stopping = false;
    this.#lastYield = null;
    const { record = true, onStep } = this.#options;
    if (this.submitted === 0) await this.#prepareJudge();
    while (!this.#stopping) {
      const { value: step, done } = await this.#steps.next();
      if (done) {
        this.ended = true;
        break;
      }
      this.#tick(step);
      onStep?.(this);
      if (!record && step.index < this.count - 1) continue;
      await this.#recordOrSkip(step);
    }
    await this.#reading;
    if (this.#failure) throw this.#failure;
    return this.ended ? 'done' : 'stopped';
  }

  /** Ends after the step under way. */
  stop(): void {
    this.#stopping = true;
  }

  /** Ends for good. */
  async close(): Promise<void> {
    this.stop();
    await this.#steps.return().catch(() => {});
  }

  #tick(step: SamplingStep): void {
    const now = performance.now();
    if (this.#lastYield !== null && step.index > 1) this.intervals.push(now - this.#lastYield);
    this.#lastYield = now;
    this.submitted = step.index + 1;
  }

  async #recordOrSkip(step: SamplingStep): Promise<void> {
    if (!this.#readingDone) {
      const short = (this.stepMs ?? Number.POSITIVE_INFINITY) < SHORT_STEP_MS;
      if (short && step.index < this.count - 1 && !this.#stopping) {
        this.#before = null;
        return;
      }
      await this.#reading;
    }
    if (this.#failure) throw this.#failure;
    this.#readingDone = false;
    this.#reading = this.#record(step).then(
      () => {
        this.#readingDone = true;
        this.#options.onRecord?.(this);
      },
      (error) => {
        this.#failure = error;
      },
    );
  }

  async #record(step: SamplingStep): Promise<void> {
    const { process } = this.#options;
    const before = this.#before;
    // All five copies are in the queue before this function waits for the first time.
    const reads = Promise.all([
      step.predXstart(),
      step.sample(),
      step.modelOutput(),
      step.logProbs(),
      step.gradient(),
    ] as const);
    const [x0, xt, { mean }, logProbs, gradient] = await reads;
    this.#before = xt;
    const { index, t, timestep } = step;
    const noiseLevel = process.sqrt_one_minus_alphas_cumprod[t]!;
    const eps = epsilonOf(process, t, mean, before);
    this.history.record({ index, timestep, noiseLevel, x0, xt, eps, logProbs, gradient });
    await this.#judgeOrKeep(index + 1, t - 1, xt);
  }

  async #prepareJudge(): Promise<void> {
    const { judge, denoiser, seed, sameImage, process } = this.#options;
    this.#before = startNoise(seed, denoiser.shape, sameImage);
    if (!judge) return;
    this.#judge = await judge;
    await this.#judgeOrKeep(0, process.length - 1, this.#before);
    this.#started = performance.now();
  }

  /** Judges a state if the share of time for it allows, and keeps it for `judgeRest` otherwise. */
  async #judgeOrKeep(index: number, t: number, x: Float32Array): Promise<void> {
    if (!this.#judge || t < 0) return;
    this.#unjudged.set(index, x);
    const cost = this.#judge.runMs ?? 0;
    const allowed = JUDGE_SHARE * (performance.now() - this.#started);
    if (index > 0 && this.#judging + cost > allowed) return;
    if (index > 0) this.#judging += cost;
    await this.#judgeNow(index);
  }

  async #judgeNow(index: number): Promise<void> {
    const { process, labels } = this.#options;
    const x = this.#unjudged.get(index);
    if (!this.#judge || !x) return;
    this.#unjudged.delete(index);
    const told = modelTimestep(process, process.length - 1 - index);
    const { logProbs, gradient } = await this.#judge.judge(x, told, labels, this.#options.signal);
    this.history.judge(index, logProbs, gradient);
  }

  /** After the run: what was left out while it ran, the latest steps first. */
  async judgeRest(signal: AbortSignal): Promise<void> {
    for (const index of [...this.#unjudged.keys()].sort((a, b) => b - a)) {
      if (signal.aborted) return;
      await this.#judgeNow(index);
      this.#options.onRecord?.(this);
    }
  }
}

/** The noise that image `sameImage` starts from, or that of all images, [N, C, H, W]. */
export function startNoise(
  seed: number,
  shape: { n: number; c: number; h: number; w: number },
  sameImage?: number,
): Float32Array {
  if (sameImage === undefined) return gaussianNoise({ seed, firstImage: 0, step: 0, stream: STREAM.start }, shape);
  return repeat(
    gaussianNoise({ seed, firstImage: sameImage, step: 0, stream: STREAM.start }, { ...shape, n: 1 }),
    shape.n,
  );
}

function repeat(one: Float32Array, times: number): Float32Array {
  const all = new Float32Array(one.length * times);
  for (let i = 0; i < times; i++) all.set(one, i * one.length);
  return all;
}

/** The seed's own noise for one image, given to all: the same numbers the sampler would draw. */
function sameNoise({ denoiser, process, seed, sameImage, sampler, eta }: RunOptions): DdimOptions {
  if (sameImage === undefined) return {};
  const { shape } = denoiser;
  const start = startNoise(seed, shape, sameImage);
  if (sampler !== 'ddpm' && !(sampler === 'ddim' && eta > 0)) return { start };
  const noise = (index: number) => {
    const step = process.length - 1 - index;
    const address = { seed, firstImage: sameImage, step, stream: STREAM.step };
    return repeat(gaussianNoise(address, { ...shape, n: 1 }), shape.n);
  };
  return { start, noise };
}

/** The noise that a model predicts, whatever its output stands for; NaN where x_t is not known here. */
function epsilonOf(
  process: GaussianDiffusion,
  t: number,
  output: Float32Array,
  before: Float32Array | null,
): Float32Array {
  const { mean_type } = process;
  if (mean_type === 'epsilon') return output;
  if (!before || mean_type === 'previous_x') return new Float32Array(output.length).fill(Number.NaN);
  const a = process.sqrt_alphas_cumprod[t]!;
  const s = process.sqrt_one_minus_alphas_cumprod[t]!;
  return output.map((value, i) => (mean_type === 'v' ? a * value + s * before[i]! : (before[i]! - a * value) / s));
}
