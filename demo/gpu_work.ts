/**
 * @file Who may use the GPU: one thing at a time. Whatever is asked for last comes first; what was under way is told to
 * end, and waited for, since both may use the same buffers.
 */
import type { Run } from './run.ts';

export interface Work {
  readonly name: 'images' | 'strip' | 'ways';
  readonly controller: AbortController;
  run: Run | null;
  /** By the visitor, not by other work. */
  stopped: boolean;
}

export class GpuWork {
  current: Work | null = null;
  readonly #changed: () => void;
  readonly #failed: (error: unknown, signal: AbortSignal) => void;
  #ticket = 0;
  #idle: Promise<void> = Promise.resolve();
  /** What follows a run until something else wants the GPU. */
  #afterwards = new AbortController();
  #resting: Promise<void> = Promise.resolve();

  /**
   * @param changed called when work begins and when it has ended
   * @param failed called with what work throws, its cancellation included
   */
  constructor(changed: () => void, failed: (error: unknown, signal: AbortSignal) => void) {
    this.#changed = changed;
    this.#failed = failed;
  }

  /** Changes with every demand: equal numbers mean that nothing was asked for in between. */
  get ticket(): number {
    return this.#ticket;
  }

  /** Ends what is under way, and waits for it. @returns false if something newer was asked for meanwhile */
  async quiet(): Promise<boolean> {
    const ticket = ++this.#ticket;
    this.current?.controller.abort();
    this.#afterwards.abort();
    await Promise.all([this.#idle, this.#resting]);
    return ticket === this.#ticket;
  }

  /** Resolves when the present work has ended by itself. */
  get idle(): Promise<void> {
    return this.#idle;
  }

  /** Ends everything at once: the device is gone. */
  drop(): void {
    this.#ticket++;
    this.current?.controller.abort();
    this.#afterwards.abort();
    this.current = null; // it ends when the driver says so; nobody has to wait to ask for something new
  }

  /** Does something alone. To be called after `quiet`. */
  async exclusively(name: Work['name'], body: (work: Work) => Promise<void>): Promise<Work> {
    const work: Work = { name, controller: new AbortController(), run: null, stopped: false };
    this.current = work;
    this.#changed();
    let finished = () => {};
    this.#idle = new Promise((resolve) => {
      finished = resolve;
    });
    try {
      await body(work);
    } catch (error) {
      this.#failed(error, work.controller.signal);
    } finally {
      if (this.current === work) this.current = null;
      finished();
      this.#changed();
    }
    return work;
  }

  /** Does something in what time is left, until other work comes. */
  rest(body: (signal: AbortSignal) => Promise<void>): void {
    const controller = new AbortController();
    this.#afterwards = controller;
    this.#resting = body(controller.signal).catch((error) => this.#failed(error, controller.signal));
  }
}
