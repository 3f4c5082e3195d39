/**
 * @file `evaluate`: what guidance does to typicality, variety and agreement, by its scale and its form.
 *
 * Samples the settings of src/evaluate/settings.ts, a few pictures a seed, all settings in turn, and judges them by a
 * classifier that has never seen noise or a guided sampler. What was measured is kept as JSON, so a run can be stopped at
 * any time, goes on where it was, and grows by seeds.
 */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ClassifierModel, loadModel, type UNetModel } from '../checkpoints/model.ts';
import { toNumbers } from '../checkpoints/safetensors.ts';
import { sample } from '../diffusion/sample.ts';
import { FeatureExtractor } from '../evaluate/features.ts';
import { type Figures, figureRows, type HeldOut, type Reference, realFigures, reference } from '../evaluate/figures.ts';
import { plot } from '../evaluate/plot.ts';
import { type Conditions, EvaluationRecord } from '../evaluate/record.ts';
import { insertMeasured, measuredPart } from '../evaluate/report.ts';
import {
  formSweep,
  guidanceOf,
  type SamplerName,
  SCALES,
  type Setting,
  scaleSweep,
  settingKey,
} from '../evaluate/settings.ts';
import { rows, vectors } from '../evaluate/vectors.ts';
import type { Runtime } from '../runtime/device.ts';
import { CheckpointError, OptionError } from '../runtime/errors.ts';
import { openAdapter } from './adapter.ts';
import { ADAPTER_OPTION, numberOption, type OptionTable, readArguments } from './arguments.ts';
import { duration, Progress } from './console.ts';
import { checkWritable, readInput, readTensors, shippedWeights, writeWhole } from './files.ts';

const OPTIONS = {
  sweep: { type: 'string', value: 'NAME', help: 'scale, form, both, or none to report alone', default: 'both' },
  seeds: { type: 'string', value: 'K', help: 'seeds of each setting, those already measured included', default: '2' },
  pictures: { type: 'string', value: 'N', help: 'pictures of each seed, 2 or more of each class', default: '20' },
  minutes: { type: 'string', value: 'M', help: 'stop after so long; the same command goes on' },
  sampler: { type: 'string', value: 'NAME', help: 'of the scale’s sweep: ddim, ddpm or both', default: 'both' },
  scales: { type: 'string', value: 'LIST', help: 'of the scale’s sweep', default: SCALES.join(',') },
  steps: { type: 'string', value: 'N', help: 'denoising steps of ddpm; ddim takes 25', default: '25' },
  model: { type: 'string', value: 'FILE', help: 'U-Net checkpoint (the shipped one)' },
  classifier: { type: 'string', value: 'FILE', help: 'classifier that guides (the shipped one)' },
  judge: { type: 'string', value: 'FILE', help: 'classifier of clean pictures that judges (the shipped one)' },
  real: { type: 'string', value: 'FILE', help: 'features of real pictures in the judge’s eyes (the shipped ones)' },
  results: { type: 'string', value: 'FILE', help: 'what was measured', default: 'out/evaluation.json' },
  docs: { type: 'string', value: 'DIR', help: 'gets guidance.md and guidance.svg', default: 'docs' },
  adapter: ADAPTER_OPTION,
} as const satisfies OptionTable;

export const evaluateHelp = {
  usage: 'evaluate [options]',
  summary: 'measures what the scale and the form of guidance do, and writes a table and a plot',
  options: OPTIONS,
};

type Options = ReturnType<typeof readArguments<typeof OPTIONS>>['options'];

/** @returns the exit status */
export async function evaluate(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(evaluateHelp, argv);
  if (positionals.length > 0) throw new OptionError(`evaluate takes options only, found "${positionals[0]}"`);
  const settings = readSettings(options);
  const seeds = numberOption('seeds', options.seeds, { min: 1, max: 100_000, whole: true });
  const pictures = numberOption('pictures', options.pictures, { min: 1, max: 10_000, whole: true });
  const steps = numberOption('steps', options.steps, { min: 2, max: 1000, whole: true });
  const minutes = options.minutes === undefined ? null : numberOption('minutes', options.minutes, { min: 0 });
  const documentPath = join(options.docs, 'guidance.md');
  const plotPath = join(options.docs, 'guidance.svg');
  for (const path of [options.results, documentPath, plotPath]) checkWritable(path);

  const files = {
    model: readInput(options.model ?? shippedWeights('fashion-mnist-unet.safetensors'), 'checkpoint'),
    classifier: readInput(options.classifier ?? shippedWeights('fashion-mnist-classifier.safetensors'), 'checkpoint'),
    judge: readInput(options.judge ?? shippedWeights('evaluation/fashion-mnist-judge.safetensors'), 'checkpoint'),
  };
  const conditions: Conditions = {
    model: digest(files.model),
    classifier: digest(files.classifier),
    judge: digest(files.judge),
    respacing: { ddim: 'ddim25', ddpm: String(steps) },
    pictures,
  };
  const record = existsSync(options.results)
    ? EvaluationRecord.fromJson(readFileSync(options.results, 'utf8'), conditions, options.results)
    : new EvaluationRecord(conditions);
  const real = readReal(options.real ?? shippedWeights('evaluation/fashion-mnist-features.safetensors'));

  const missing = Array.from({ length: seeds }, (_, seed) => settings.map((setting) => ({ setting, seed })))
    .flat()
    .filter(({ setting, seed }) => !record.find(setting, seed));
  if (missing.length > 0) {
    const run = { options, files, record, pictures, minutes, width: real.reference.features.width };
    await measure(run, missing);
  }
  if (record.chunks.length === 0) throw new OptionError(`nothing is measured yet in ${options.results}`);

  writeReport(record, real, documentPath, plotPath);
  process.stdout.write(`${[options.results, documentPath, plotPath].join('\n')}\n`);
  return 0;
}

interface Run {
  readonly options: Options;
  readonly files: { readonly model: Buffer; readonly classifier: Buffer; readonly judge: Buffer };
  readonly record: EvaluationRecord;
  readonly pictures: number;
  readonly minutes: number | null;
  /** Of the real pictures' features. */
  readonly width: number;
}

/** Samples what is missing, a setting and a seed at a time, and saves after each. */
async function measure(run: Run, missing: readonly { readonly setting: Setting; readonly seed: number }[]) {
  const { options, record, pictures, minutes } = run;
  const { found, runtime } = await openAdapter(options.adapter);
  const { unet, classifier, judge, labels } = loadModels(runtime, run.files, pictures);
  const extractor = await FeatureExtractor.create(runtime, judge, Math.min(pictures, 50));
  record.adapters.add(found.adapter.name);
  const started = performance.now();
  const progress = new Progress('Evaluating');
  let done = 0;
  for (const { setting, seed } of missing) {
    const from = performance.now();
    const { samples } = await sample(runtime, {
      unet,
      guidance: guidanceOf(setting, classifier),
      labels,
      sampler: setting.sampler,
      respacing: record.conditions.respacing[setting.sampler]!,
      scale: setting.scale,
      seed,
      maxBatch: 20,
    });
    const judged = await extractor.judge(samples);
    if (judged.features.width !== run.width) {
      throw new OptionError(
        `--real holds ${run.width} features a picture, --judge makes ${judged.features.width}; make them with the same classifier`,
      );
    }
    record.add(setting, seed, labels, samples, judged, (performance.now() - from) / 1000);
    writeWhole(options.results, record.toJson());
    progress.update(++done, missing.length, 'settings');
    if (minutes !== null && performance.now() - started > 60_000 * minutes && done < missing.length) {
      progress.stop();
      const next = missing[done]!;
      const left = `${missing.length - done} are left, ${settingKey(next.setting)} with seed ${next.seed} next`;
      console.error(`Stopped after ${duration((performance.now() - started) / 1000)}: ${left}.`);
      break;
    }
  }
  extractor.dispose();
  runtime.dispose();
  found.device.destroy();
}

function loadModels(runtime: Runtime, files: Run['files'], pictures: number) {
  const unet = loadModel(runtime, files.model);
  const classifier = loadModel(runtime, files.classifier);
  const judge = loadModel(runtime, files.judge);
  if (!unet.isUNet()) throw new OptionError('--model needs a U-Net, this checkpoint is none');
  if (!classifier.isClassifier()) throw new OptionError('--classifier needs a classifier, this checkpoint is none');
  if (!judge.isClassifier()) throw new OptionError('--judge needs a classifier, this checkpoint is none');
  const classes = checkTogether(unet, classifier, judge);
  if (pictures % classes !== 0 || pictures < 2 * classes) {
    throw new OptionError(
      `--pictures should be a multiple of the ${classes} classes, twice or more, found ${pictures}`,
    );
  }
  const labels = Array.from({ length: pictures }, (_, i) => i % classes);
  return { unet, classifier, judge, labels };
}

/** @returns the number of classes that all three know */
function checkTogether(unet: UNetModel, classifier: ClassifierModel, judge: ClassifierModel): number {
  const { model, nullClass } = unet.config;
  if (model.num_classes === null || nullClass === null) {
    throw new OptionError('--model needs a U-Net that knows classes and a null class: both are compared');
  }
  const classes = model.num_classes - 1;
  for (const [name, { config }] of [['--classifier', classifier] as const, ['--judge', judge] as const]) {
    const { out_channels, image_size, in_channels } = config.model;
    if (out_channels !== classes || image_size !== model.image_size || in_channels !== model.in_channels) {
      throw new OptionError(
        `${name} knows ${out_channels} classes of ${in_channels} x ${image_size} x ${image_size}, the U-Net ${classes} of ${model.in_channels} x ${model.image_size} x ${model.image_size}`,
      );
    }
  }
  return classes;
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 16);

function readSettings({ sweep, sampler, scales }: Options): Setting[] {
  if (!['scale', 'form', 'both', 'none'].includes(sweep)) {
    throw new OptionError(`--sweep should be scale, form, both or none, found "${sweep}"`);
  }
  if (!['ddim', 'ddpm', 'both'].includes(sampler)) {
    throw new OptionError(`--sampler should be ddim, ddpm or both, found "${sampler}"`);
  }
  const samplers: SamplerName[] = sampler === 'both' ? ['ddim', 'ddpm'] : [sampler as SamplerName];
  const list = scales.split(',').map((text) => numberOption('scales', text, { min: 0 }));
  const wanted = [
    ...(sweep === 'scale' || sweep === 'both' ? scaleSweep(samplers, list) : []),
    ...(sweep === 'form' || sweep === 'both' ? formSweep() : []),
  ];
  return [...new Map(wanted.map((setting) => [settingKey(setting), setting])).values()];
}

/** Real pictures' features: the first half is what all is compared with, the second stands beside generated pictures. */
function readReal(path: string): { reference: Reference; held: HeldOut } {
  const { tensors } = readTensors(path, 'features of real pictures');
  const matrix = (name: string) => {
    const tensor = tensors.get(name);
    if (tensor?.shape.length !== 2) throw new CheckpointError(`${path} should hold ${name} [N, F]`);
    return vectors(toNumbers(tensor), tensor.shape[1]!);
  };
  const features = matrix('features');
  const logits = matrix('logits');
  const labels = tensors.get('labels');
  if (!labels || labels.shape[0] !== features.count || logits.count !== features.count || features.count < 20) {
    throw new CheckpointError(`${path} should hold features, logits and labels of the same 20 pictures or more`);
  }
  const half = Math.floor(features.count / 2);
  const classes = [...toNumbers(labels)];
  return {
    reference: reference({ features: rows(features, 0, half), labels: classes.slice(0, half) }),
    held: { features: rows(features, half), logits: rows(logits, half), labels: classes.slice(half) },
  };
}

function writeReport(
  record: EvaluationRecord,
  { reference: real, held }: { reference: Reference; held: HeldOut },
  documentPath: string,
  plotPath: string,
): void {
  const figures = figureRows(record, real);
  const levels = new Map<number, Figures>();
  for (const count of new Set(figures.map((row) => row.pictures))) {
    const level = realFigures(held, real, count);
    if (level) levels.set(count, level);
  }
  const inputs = {
    rows: figures,
    real: levels,
    adapters: [...record.adapters],
    respacing: record.conditions.respacing,
    referenceCount: real.features.count,
    seconds: record.chunks.reduce((sum, { seconds }) => sum + seconds, 0),
    date: new Date().toISOString().slice(0, 10),
  };
  writeWhole(plotPath, plot(figures, levels));
  const before = existsSync(documentPath) ? readFileSync(documentPath, 'utf8') : '# What guidance does\n';
  writeWhole(documentPath, insertMeasured(before, measuredPart(inputs, 'guidance.svg')));
}
