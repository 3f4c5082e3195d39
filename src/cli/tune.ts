/**
 * @file `tune`: measures how long the kernels' variants take on this adapter, for the shapes of given models, and
 * writes the table that Pilotwave ships for adapters it knows (src/runtime/tuned).
 */

import { existsSync, readFileSync } from 'node:fs';
import type { ModelConfig } from '../checkpoints/config.ts';
import { describeCheckpoint } from '../checkpoints/describe.ts';
import { configsFromFlags, parseFlags } from '../checkpoints/flags.ts';
import { shapedModel } from '../inspect/summary.ts';
import { buildNetwork, usualLowRes } from '../layers/network.ts';
import { OptionError } from '../runtime/errors.ts';
import type { TunedShape } from '../runtime/tuner.ts';
import { isTuningTable, type TuningTable } from '../runtime/tuning.ts';
import { openAdapter } from './adapter.ts';
import { ADAPTER_OPTION, numberOption, type OptionTable, readArguments } from './arguments.ts';
import { openCheckpointFile } from './checkpoint_files.ts';
import { checkWritable, shippedWeights, writeWhole } from './files.ts';

const OPTIONS = {
  flags: {
    type: 'string',
    anyText: true,
    value: '"…"',
    help: 'models of these guided-diffusion flags, beside the files',
  },
  batch: { type: 'string', value: 'N', help: 'pictures at once', default: '1' },
  seconds: { type: 'string', value: 'S', help: 'time for each model', default: '60' },
  table: { type: 'string', value: 'FILE', help: 'a table to begin with, and to write the larger one to' },
  adapter: ADAPTER_OPTION,
} as const satisfies OptionTable;

export const tuneHelp = {
  usage: 'tune [FILE...] [--flags "--image_size 64 …"] [--batch N] [--seconds S] [--table FILE] [--adapter NAME]',
  summary: 'measures how long the kernels’ variants take, for a model’s shapes (by default the shipped models’)',
  options: OPTIONS,
};

/** @returns the exit status */
export async function tune(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(tuneHelp, argv);
  const batch = numberOption('batch', options.batch, { min: 1, max: 1024, whole: true });
  const seconds = numberOption('seconds', options.seconds, { min: 0 });
  if (options.table !== undefined) checkWritable(options.table);
  const configs = await configsOf(positionals, options.flags);

  // What Mesa kept of an earlier run would seem to compile in no time.
  process.env['MESA_SHADER_CACHE_DISABLE'] = 'true';
  const { runtime } = await openAdapter(options.adapter, {
    tuning: {
      software: true,
      anew: true,
      budgetMs: seconds * 1000,
      onShape: (shape) => process.stdout.write(`${shapeLine(shape)}\n`),
    },
  });
  const { tuner } = runtime;
  if (!tuner) throw new OptionError('this adapter is not tuned');
  const { table } = options;
  if (table !== undefined) tuner.tuning.takeMeasured(readTable(table));
  for (const config of configs) {
    const size = { batch, lowRes: usualLowRes(config, { batch }) };
    const { graph } = buildNetwork(runtime.target, shapedModel(config), size, config.kind === 'classifier');
    await tuner.tune(graph);
  }
  if (table !== undefined) writeWhole(table, tableText(tuner.tuning.measured));
  return 0;
}

async function configsOf(files: readonly string[], flags: string | undefined): Promise<ModelConfig[]> {
  const configs = flags === undefined ? [] : configsFromFlags(parseFlags(flags));
  const shipped = ['fashion-mnist-unet.safetensors', 'fashion-mnist-classifier.safetensors'].map(shippedWeights);
  for (const path of files.length === 0 && flags === undefined ? shipped : files) configs.push(await configOf(path));
  return configs;
}

async function configOf(path: string): Promise<ModelConfig> {
  const file = await openCheckpointFile(path);
  try {
    const { model, problem } = describeCheckpoint(file, null);
    if (!model) throw new OptionError(`${path} is not a model: ${problem}`);
    return model.config;
  } finally {
    await file.close();
  }
}

/** Two digits are as much as a time is good for. */
const tableText = (table: TuningTable): string =>
  `${JSON.stringify(table, (_, value) => (typeof value === 'number' ? Number(value.toPrecision(2)) : value), 2)}\n`;

/** A table that may not exist yet. */
function readTable(path: string): TuningTable {
  if (!existsSync(path)) return { times: {}, compilation: {} };
  const table: unknown = JSON.parse(readFileSync(path, 'utf8'));
  if (!isTuningTable(table))
    throw new OptionError(`${path} should hold a table of this command's, found something else`);
  return table;
}

function shapeLine({ choice: { kind, form, sizes }, times }: TunedShape): string {
  const list = times.map(({ name, ms }) => `${name} ${ms.toPrecision(3)}`);
  return `${kind} ${form}, ${sizes.join(' ')}: ${list.join(', ')} ms`;
}
