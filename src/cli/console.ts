/**
 * @file What the command line says besides its result. All of it goes to standard error.
 */
import type { NodeDevice } from '../node/device.ts';

export function describeAdapterLine({ adapter, source }: NodeDevice): string {
  const line = `Adapter: ${adapter.name}, from ${source}.`;
  return adapter.software
    ? `${line}\nThis is a software adapter: all is computed on the CPU, with the same results but at a small part of a GPU’s speed.`
    : line;
}

/** A progress bar with the time left: one line that is redrawn on a terminal, a line every quarter elsewhere. */
export class Progress {
  readonly #label: string;
  readonly #started = performance.now();
  readonly #stream = process.stderr;
  #quarter = 0;

  constructor(label: string) {
    this.#label = label;
  }

  /** @param unit what is counted, in the plural */
  update(done: number, total: number, unit: string): void {
    const share = total === 0 ? 1 : done / total;
    const seconds = (performance.now() - this.#started) / 1000;
    const left =
      done === 0
        ? ''
        : done < total
          ? `, ${duration((seconds / done) * (total - done))} left`
          : `, ${duration(seconds)}`;
    const text = `${this.#label} ${done} of ${total} ${unit}${left}`;
    if (this.#stream.isTTY) {
      const width = 24;
      const full = Math.round(share * width);
      const bar = '█'.repeat(full) + '·'.repeat(width - full);
      this.#stream.write(`\r\x1b[K${bar} ${text}${done === total ? '\n' : ''}`);
    } else if (done === total || Math.floor(share * 4) > this.#quarter) {
      this.#quarter = Math.floor(share * 4);
      this.#stream.write(`${text}\n`);
    }
  }

  /** Leaves an unfinished bar behind, so that what follows starts on a line of its own. */
  stop(): void {
    if (this.#stream.isTTY) this.#stream.write('\n');
  }
}

export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${seconds.toFixed(0)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
