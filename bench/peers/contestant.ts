/**
 * @file What a module must export, as `contestant`, to be measured. Inside the repository or anywhere else: see README.md.
 */
import type { AttentionCase, ClassifierCase, ConvCase, GroupNormCase, PeakCase, UNetCase } from './cases.ts';

/** One case, ready to run: parameters on the device, outputs not read back. */
export interface Workload {
  /** Enqueues and submits one evaluation. */
  run(): void | Promise<void>;
  /** One evaluation's result: NCHW, [batch, heads, tokens, width] or [batch, classes]. */
  read(): Promise<ArrayLike<number>>;
  /** Waits for what was submitted; by default for all queues of all devices. */
  wait?(): Promise<void>;
  dispose?(): void | Promise<void>;
}

export interface Contestant {
  /** Asks for a device, through navigator.gpu. @returns what the report should name: a version, for example */
  init(options: Readonly<Record<string, unknown>>): Promise<string>;
  fma?(c: PeakCase): Workload | Promise<Workload>;
  copy?(c: PeakCase): Workload | Promise<Workload>;
  conv?(c: ConvCase): Workload | Promise<Workload>;
  groupnorm?(c: GroupNormCase): Workload | Promise<Workload>;
  attention?(c: AttentionCase): Workload | Promise<Workload>;
  unet?(c: UNetCase): Workload | Promise<Workload>;
  classifier?(c: ClassifierCase): Workload | Promise<Workload>;
  gradient?(c: ClassifierCase): Workload | Promise<Workload>;
}
