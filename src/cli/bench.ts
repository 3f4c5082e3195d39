/**
 * @file `bench`: kernels, models and a guided step on this adapter; the same as the benchmark page, in text.
 */

import { families, kernelCases } from '../../bench/kernels.ts';
import { layerTotals } from '../../bench/results.ts';
import { Collected, MODELS_FAMILY, runBench } from '../../bench/run.ts';
import { modelLines, peakLines, rowLines, wrongLine } from '../../bench/tables.ts';
import { fileStore } from '../node/tuning_store.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { openAdapter } from './adapter.ts';
import {
  ACCURACY_OPTION,
  ADAPTER_OPTION,
  accuracyOption,
  numberOption,
  type OptionTable,
  readArguments,
} from './arguments.ts';
import { areOwn, openPair, readExpected } from './bench_models.ts';
import { checkWritable, writeWhole } from './files.ts';

const OPTIONS = {
  only: { type: 'string', value: 'NAME', help: 'a family of kernels, or models: a part of its name' },
  shapes: {
    type: 'string',
    value: 'NAME',
    help: 'shipped, adm-64, adm-256, or all; on a software adapter shipped, else all',
  },
  batch: { type: 'string', value: 'N', help: 'images at once in whole models', default: '10' },
  model: { type: 'string', value: 'FILE', help: 'a U-Net in place of the shipped one, with a classifier' },
  classifier: { type: 'string', value: 'FILE', help: 'its classifier' },
  flags: {
    type: 'string',
    anyText: true,
    value: '"…"',
    help: 'what the files hold, in guided-diffusion’s flags; without files, models of random weights',
  },
  expect: { type: 'string', value: 'FILE', help: 'inputs and results of a step that the models should agree with' },
  accuracy: ACCURACY_OPTION,
  'tune-seconds': {
    type: 'string',
    value: 'S',
    help: 'on a GPU: time for each model to choose its kernels (shipped 2, others 60)',
  },
  json: { type: 'string', value: 'FILE', help: 'writes the figures as JSON' },
  adapter: ADAPTER_OPTION,
} as const satisfies OptionTable;

export const benchHelp = {
  usage:
    'bench [--only NAME] [--shapes NAME] [--model FILE --classifier FILE] [--batch N] [--json FILE] [--adapter NAME]',
  summary: 'times kernels and whole models, forward and backward',
  options: OPTIONS,
};

/** Steps of an ordinary run of a released model: what a kernel's choice is for. */
const VISIT_STEPS = 250;

/** The one name that holds the text. @throws OptionError if there is none */
function choose(option: string, text: string, names: readonly string[]): string {
  const found = names.find((name) => name.toLowerCase().includes(text.toLowerCase()));
  if (found) return found;
  throw new OptionError(`--${option} should be a part of one of ${names.join(', ')}; found "${text}"`);
}

/** What was measured to choose kernels by, and how many shapes there was no time for. */
class TuningReport {
  shapes = 0;
  #left = 0;
  left = 0;

  readonly onShape = (_: unknown, left: number): void => {
    this.shapes++;
    this.#left = left;
  };

  /** A plan is made. */
  next(): void {
    this.left += this.#left;
    if (this.#left > 0) console.error(`${this.#left} shapes were not measured: raise --tune-seconds`);
    this.#left = 0;
  }
}

/** @returns the exit status: 1 if a model's result was wrong */
export async function bench(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(benchHelp, argv);
  if (positionals.length > 0) throw new OptionError(`bench takes options only, found "${positionals[0]}"`);
  const { model, classifier, flags } = options;
  const batch = numberOption('batch', options.batch, { min: 1, max: 1024, whole: true });
  const accuracy = accuracyOption(options.accuracy);
  const own = areOwn({ model, classifier, flags });
  const tuneSeconds = numberOption('tune-seconds', options['tune-seconds'] ?? (own ? '60' : '2'), { min: 0 });
  const cases = kernelCases();
  const only = options.only ?? (own ? MODELS_FAMILY : undefined);
  const family = only === undefined ? null : choose('only', only, [...families(cases), MODELS_FAMILY]);
  const sets = [...new Set(cases.map(({ models }) => models))];
  const asked = options.shapes === undefined ? null : choose('shapes', options.shapes, ['all', ...sets]);
  if (options.json !== undefined) checkWritable(options.json);

  const tuned = new TuningReport();
  const visit = own ? { visitSteps: VISIT_STEPS } : {};
  const { found, runtime } = await openAdapter(options.adapter, {
    accuracy,
    tuning: { store: fileStore(), budgetMs: tuneSeconds * 1000, onShape: tuned.onShape, ...visit },
  });
  const pair = await openPair(runtime, { model, classifier, flags });
  const expected = options.expect === undefined ? null : readExpected(options.expect, pair, batch);

  const shapes = asked ?? (runtime.adapter.software ? sets[0]! : 'all');
  const selection = { family, models: shapes === 'all' ? null : shapes };
  const collected = new Collected();
  const print = (lines: readonly string[]) => process.stdout.write(`${lines.join('\n')}\n`);
  let last = '';
  for await (const event of runBench(runtime, pair, { selection, batch, own, expected })) {
    collected.take(event);
    if (event.kind === 'peak') print(peakLines({ peak: event.peak, clock: event.clock }));
    if (event.kind === 'rows') {
      print(rowLines(event.rows, event.rows[0]?.family !== last));
      last = event.rows[0]?.family ?? last;
    }
    if (event.kind === 'model') print(modelLines(event.model));
    if (event.kind === 'wrong') print([wrongLine(event.model)]);
    if (event.kind === 'progress') {
      tuned.next();
      if (event.doing) console.error(`${event.done + 1} of ${event.total}: ${event.doing}`);
    }
  }
  if (options.json !== undefined) {
    const host = `Node ${process.versions.node}, ${process.platform}; ${found.source}`;
    const result = collected.result(runtime, host);
    const models = own ? collected.models.map((m) => ({ ...m, ...layerTotals(m.layers) })) : collected.models;
    const { shapes: measured, left } = tuned;
    const more = { accuracy, device: deviceFacts(runtime), tuned: { shapes: measured, left } };
    writeWhole(options.json, `${JSON.stringify({ ...result, models, ...more }, null, 1)}\n`);
  }
  runtime.dispose();
  found.device.destroy();
  return collected.wrong.length > 0 ? 1 : 0;
}

/** What kernels can be chosen by. */
function deviceFacts({ device, target }: Runtime) {
  const features = [...device.features].filter((f) => /timestamp|f16|subgroup/.test(f));
  return { features, subgroupMatrix: target.subgroupMatrix ?? null };
}
