/**
 * @file Submits a dispatch list in slices that stay far below any watchdog, and never lets the queue run far ahead.
 *
 * A fast device takes a whole denoising step in one submit. A slow one would hold the queue for seconds: no cancel, no
 * preview, and a browser that thinks the device hangs. So the time of each submit is measured, and the next run is cut
 * into as many slices of equal measured cost as it needs. A dispatch that would be long by itself comes in parts (divide.ts).
 */
import type { Cost } from './shader.ts';

/** Aim of a slice in milliseconds. */
export const SLICE_MS = 150;

/** Submits that may wait in the queue, the running one included, and not counting those below. */
const IN_FLIGHT = 2;

/**
 * Short submits are not waited for one by one, but together when they should take this long: in a browser, to be told that
 * one is done costs more than a small kernel.
 */
const UNWATCHED_MS = 10;

/** Nor more of them than this, in case an expectation is wrong. */
const MOST_UNWATCHED = 20;

/** First guesses of a device's speed, replaced by measurement: on the low side, since a slice too small is harmless. */
const GUESS = { flopsPerMs: 5e5, bytesPerMs: 5e5, dispatchMs: 0.05 };

/** The guessed duration of a dispatch in milliseconds. */
const guess = ({ flops, bytes }: Cost): number =>
  flops / GUESS.flopsPerMs + bytes / GUESS.bytesPerMs + GUESS.dispatchMs;

/** What is known about the durations of one dispatch list. */
export class SlicePlan {
  /** Milliseconds, one a dispatch: guessed at first, scaled to fit each measurement. */
  readonly #durations: Float64Array;
  #measured = false;

  constructor(costs: readonly Cost[]) {
    this.#durations = Float64Array.from(costs, guess);
  }

  /** Whether a run was measured to its end. */
  get measured(): boolean {
    return this.#measured;
  }

  /** Milliseconds a run takes: measured, or null before the first run. */
  get runMs(): number | null {
    return this.#measured ? this.expected(0, this.#durations.length) : null;
  }

  /**
   * Ends of the slices: dispatch indices, the last one being the length of the list. As many slices as the total time
   * needs; each ends where its share is closest, so that a dispatch that is long by itself stands alone.
   */
  cut(): number[] {
    const length = this.#durations.length;
    const total = this.expected(0, length);
    const count = Math.min(length, Math.max(1, Math.ceil(total / SLICE_MS)));
    const ends: number[] = [];
    let passed = 0;
    this.#durations.forEach((ms, i) => {
      const share = ((ends.length + 1) * total) / count;
      const last = ends.length === count - 1;
      if (!last && i > (ends.at(-1) ?? 0) && passed + ms / 2 > share) ends.push(i);
      passed += ms;
    });
    ends.push(length);
    return ends;
  }

  /** Milliseconds that the dispatches from `from` to before `to` should take. */
  expected(from: number, to: number): number {
    let ms = 0;
    for (let i = from; i < to; i++) ms += this.#durations[i]!;
    return ms;
  }

  /** Takes in that the dispatches from `from` to before `to` took `ms` together. */
  record(from: number, to: number, ms: number): void {
    const before = this.expected(from, to);
    if (!(before > 0) || !(ms > 0)) return;
    for (let i = from; i < to; i++) this.#durations[i]! *= ms / before;
    if (to === this.#durations.length) this.#measured = true;
  }
}

export class SubmitPacer {
  readonly #device: GPUDevice;
  readonly #inFlight: Promise<void>[] = [];
  #lastDone = 0;
  /** What the submits since the last watched one should take. */
  #unwatchedMs = 0;
  #unwatched = 0;
  /** Submits so far, for tests and reports. */
  submits = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /**
   * @param encode records the dispatches from `from` to before `to`
   * @param signal checked before every slice; what was submitted before still completes
   */
  async run(
    slices: SlicePlan,
    encode: (pass: GPUComputePassEncoder, from: number, to: number) => void,
    signal?: AbortSignal,
  ) {
    let from = 0;
    for (const to of slices.cut()) {
      while (this.#inFlight.length >= IN_FLIGHT) await this.#inFlight[0];
      signal?.throwIfAborted();
      const encoder = this.#device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      encode(pass, from, to);
      pass.end();
      this.#submit(encoder.finish(), slices, from, to);
      from = to;
    }
  }

  #submit(commands: GPUCommandBuffer, slices: SlicePlan, from: number, to: number): void {
    const submitted = performance.now();
    this.#device.queue.submit([commands]);
    this.submits++;
    const expected = slices.expected(from, to);
    const short = slices.measured && this.#unwatchedMs + expected < UNWATCHED_MS;
    if (short && this.#unwatched < MOST_UNWATCHED) {
      this.#unwatchedMs += expected;
      this.#unwatched++;
      return;
    }
    const share = expected / (this.#unwatchedMs + expected);
    this.#unwatchedMs = 0;
    this.#unwatched = 0;
    const done = this.#device.queue.onSubmittedWorkDone().then(
      () => {
        const now = performance.now();
        slices.record(from, to, share * (now - Math.max(submitted, this.#lastDone)));
        this.#lastDone = now;
      },
      () => {}, // a lost device is reported by the runtime
    );
    this.#inFlight.push(done);
    void done.then(() => this.#inFlight.splice(this.#inFlight.indexOf(done), 1));
  }

  /** Resolves when everything submitted so far is done. */
  async idle(): Promise<void> {
    await Promise.all(this.#inFlight);
    if (this.#unwatched > 0) await this.#device.queue.onSubmittedWorkDone().catch(() => {});
  }
}
