/**
 * @file `bench`: where the time of a guided step goes on this adapter.
 */
import { benchGuidedStep } from '../../bench/guided_step.ts';
import { requestNodeDevice } from '../node/device.ts';
import { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { numberOption, type OptionTable, readArguments } from './arguments.ts';
import { readModel } from './checkpoint_files.ts';
import { describeAdapterLine } from './console.ts';
import { checkWritable, shippedWeights, writeWhole } from './files.ts';

const OPTIONS = {
  batch: { type: 'string', value: 'N', help: 'pictures at once', default: '10' },
  json: { type: 'string', value: 'FILE', help: 'writes the figures as JSON' },
  adapter: {
    type: 'string',
    value: 'NAME',
    help: 'auto, gpu, software, or a part of an adapter’s name',
    default: 'auto',
  },
} as const satisfies OptionTable;

export const benchHelp = {
  usage: 'bench [--batch N] [--json FILE] [--adapter NAME]',
  summary: 'times each kernel of a guided step of the shipped models',
  options: OPTIONS,
};

/** @returns the exit status */
export async function bench(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(benchHelp, argv);
  if (positionals.length > 0) throw new OptionError(`bench takes options only, found "${positionals[0]}"`);
  const batch = numberOption('batch', options.batch, { min: 1, max: 1024, whole: true });
  if (options.json !== undefined) checkWritable(options.json);
  const found = await requestNodeDevice(options.adapter);
  console.error(describeAdapterLine(found));
  const runtime = new Runtime(found.device);
  const unet = await readModel(runtime, shippedWeights('fashion-mnist-unet.safetensors'));
  const classifier = await readModel(runtime, shippedWeights('fashion-mnist-classifier.safetensors'));
  if (!unet.isUNet() || !classifier.isClassifier())
    throw new Error('the shipped checkpoints are not what they should be');
  const report = await benchGuidedStep(runtime, unet, classifier, batch);

  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const lines = [
    `guided DDIM step, ${batch} pictures: ${report.stepMs.toFixed(1)} ms, ${report.dispatches} dispatches`,
    `plan ${report.planMs.toFixed(0)} ms, first run ${report.firstMs.toFixed(0)} ms, dispatches timed alone ${report.sumMs.toFixed(1)} ms`,
    `activations ${mb(report.activationBytes)} (least possible ${mb(report.leastBytes)}), weights ${mb(report.weightBytes)}`,
    '',
    `${'kernel'.padEnd(44)} ${'dispatches'.padStart(10)} ${'ms'.padStart(9)} ${'GFLOP/s'.padStart(9)} ${'GB/s'.padStart(7)}`,
    ...report.rows.map(
      ({ kernel, dispatches, ms, gflops, gbps }) =>
        `${kernel.padEnd(44)} ${String(dispatches).padStart(10)} ${ms.toFixed(2).padStart(9)} ${gflops.toFixed(2).padStart(9)} ${gbps.toFixed(2).padStart(7)}`,
    ),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (options.json !== undefined) {
    const date = new Date().toISOString().slice(0, 10);
    writeWhole(options.json, `${JSON.stringify({ adapter: found.adapter, date, ...report }, null, 1)}\n`);
  }
  runtime.dispose();
  found.device.destroy();
  return 0;
}
