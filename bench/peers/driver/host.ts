/** @file Where contestants run: pages of a browser, or child processes. */
import type { Case } from '../cases.ts';
import type { FirstCall, Missing, Round } from '../measure/worker.ts';

/** One contestant at one case. */
export interface Seat {
  start(c: Case, options: Readonly<Record<string, unknown>>): Promise<FirstCall | Missing>;
  warmUp(): Promise<void>;
  round(budgetMs: number, most: number): Promise<Round>;
  close(): Promise<void>;
}

export interface Host {
  /** With its version. */
  readonly name: string;
  /** Where a bundle finds `kernels.js` files and the installed packages, as URLs. */
  urlOf(file: string): string;
  readonly modulesUrl: string;
  /** Everything fresh: no pipelines, no memory of what ran before. */
  beginCase(): Promise<void>;
  seat(bundle: string): Promise<Seat>;
  endCase(): Promise<void>;
  close(): Promise<void>;
}
