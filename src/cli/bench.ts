/**
 * @file `bench`: kernels, models and a guided step on this adapter; the same as the benchmark page, in text.
 */

import { families, kernelCases } from '../../bench/kernels.ts';
import { Collected, MODELS_FAMILY, runBench } from '../../bench/run.ts';
import { modelLines, peakLines, rowLines } from '../../bench/tables.ts';
import { OptionError } from '../runtime/errors.ts';
import { openAdapter } from './adapter.ts';
import { ADAPTER_OPTION, numberOption, type OptionTable, readArguments } from './arguments.ts';
import { readModel } from './checkpoint_files.ts';
import { checkWritable, shippedWeights, writeWhole } from './files.ts';

const OPTIONS = {
  only: { type: 'string', value: 'NAME', help: 'a family of kernels, or models: a part of its name' },
  shapes: {
    type: 'string',
    value: 'NAME',
    help: 'shipped, adm-64, adm-256, or all; on a software adapter shipped, else all',
  },
  batch: { type: 'string', value: 'N', help: 'images at once in whole models', default: '10' },
  json: { type: 'string', value: 'FILE', help: 'writes the figures as JSON' },
  adapter: ADAPTER_OPTION,
} as const satisfies OptionTable;

export const benchHelp = {
  usage: 'bench [--only NAME] [--shapes NAME] [--batch N] [--json FILE] [--adapter NAME]',
  summary: 'times kernels and whole models, forward and backward',
  options: OPTIONS,
};

/** The one name that holds the text. @throws OptionError if there is none */
function choose(option: string, text: string, names: readonly string[]): string {
  const found = names.find((name) => name.toLowerCase().includes(text.toLowerCase()));
  if (found) return found;
  throw new OptionError(`--${option} should be a part of one of ${names.join(', ')}; found "${text}"`);
}

/** @returns the exit status */
export async function bench(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(benchHelp, argv);
  if (positionals.length > 0) throw new OptionError(`bench takes options only, found "${positionals[0]}"`);
  const batch = numberOption('batch', options.batch, { min: 1, max: 1024, whole: true });
  const cases = kernelCases();
  const family = options.only === undefined ? null : choose('only', options.only, [...families(cases), MODELS_FAMILY]);
  const sets = [...new Set(cases.map(({ models }) => models))];
  const asked = options.shapes === undefined ? null : choose('shapes', options.shapes, ['all', ...sets]);
  if (options.json !== undefined) checkWritable(options.json);

  const { found, runtime } = await openAdapter(options.adapter);
  const unet = await readModel(runtime, shippedWeights('fashion-mnist-unet.safetensors'));
  const classifier = await readModel(runtime, shippedWeights('fashion-mnist-classifier.safetensors'));
  if (!unet.isUNet() || !classifier.isClassifier())
    throw new Error('the shipped checkpoints are not what they should be');

  const shapes = asked ?? (runtime.adapter.software ? sets[0]! : 'all');
  const selection = { family, models: shapes === 'all' ? null : shapes };
  const collected = new Collected();
  const print = (lines: readonly string[]) => process.stdout.write(`${lines.join('\n')}\n`);
  let last = '';
  for await (const event of runBench(runtime, { unet, classifier }, { selection, batch })) {
    collected.take(event);
    if (event.kind === 'peak') print(peakLines({ peak: event.peak, clock: event.clock }));
    if (event.kind === 'rows') {
      print(rowLines(event.rows, event.rows[0]?.family !== last));
      last = event.rows[0]?.family ?? last;
    }
    if (event.kind === 'model') print(modelLines(event.model));
    if (event.kind === 'progress' && event.doing) {
      console.error(`${event.done + 1} of ${event.total}: ${event.doing}`);
    }
  }
  if (options.json !== undefined) {
    const result = collected.result(runtime, `Node ${process.versions.node}, ${process.platform}; ${found.source}`);
    writeWhole(options.json, `${JSON.stringify(result, null, 1)}\n`);
  }
  runtime.dispose();
  found.device.destroy();
  return 0;
}
