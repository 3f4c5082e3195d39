/**
 * @file `inspect`: what a checkpoint, or a line of guided-diffusion's flags, describes, and what it would take to run it.
 * Nothing is sent to a device; none is needed.
 */
import type { ModelConfig } from '../checkpoints/config.ts';
import { type Description, describeCheckpoint } from '../checkpoints/describe.ts';
import { configFromFlags } from '../checkpoints/fit.ts';
import { configsFromFlags, parseFlags } from '../checkpoints/flags.ts';
import {
  type LayerSummary,
  type ModelSummary,
  type PlanSummary,
  type SummaryOptions,
  shapedModel,
  summarize,
  summarizeStep,
} from '../inspect/summary.ts';
import { OptionError } from '../runtime/errors.ts';
import { describeShape } from '../runtime/resources.ts';
import type { MatrixFormat } from '../runtime/weight_formats.ts';
import { choiceOption, numberOption, type OptionTable, readArguments } from './arguments.ts';
import { openCheckpointFile } from './checkpoint_files.ts';

const OPTIONS = {
  flags: {
    type: 'string',
    anyText: true,
    value: '"…"',
    help: 'guided-diffusion’s flags, in place of or in addition to a file',
  },
  batch: { type: 'string', value: 'N', help: 'pictures at once, for multiply-adds and bytes', default: '1' },
  precision: { type: 'string', value: 'FORMAT', help: 'f32, f16 or int8: how matrices are kept', default: 'f32' },
  height: { type: 'string', value: 'H', help: 'of the pictures (the model’s image_size)' },
  width: { type: 'string', value: 'W', help: 'of the pictures (the model’s image_size)' },
  'memory-budget': {
    type: 'string',
    value: 'MB',
    help: 'most megabytes of activations in a plan; what does not fit is computed anew (no limit)',
  },
  target: { type: 'string', value: 'KIND', help: 'gpu or cpu: which adapter the plan is for', default: 'gpu' },
  tensors: { type: 'boolean', help: 'lists every tensor of the file' },
  json: { type: 'boolean', help: 'prints one JSON object' },
} as const satisfies OptionTable;

export const inspectHelp = {
  usage: 'inspect FILE | --flags "--image_size 64 …" [options]',
  summary: 'describes a model: layers, parameters, multiply-adds, dispatches and bytes of its plan',
  options: OPTIONS,
};

/** @returns the exit status */
export async function inspect(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(inspectHelp, argv);
  if (positionals.length > 1) throw new OptionError(`inspect takes one file, found ${positionals.length}`);
  const [path] = positionals;
  if (path === undefined && options.flags === undefined) {
    throw new OptionError('inspect needs a file, or --flags with guided-diffusion’s flags');
  }
  if (options.target !== 'gpu' && options.target !== 'cpu') {
    throw new OptionError(`--target should be gpu or cpu, found "${options.target}"`);
  }
  const size = (name: 'height' | 'width') => {
    const text = options[name];
    return text === undefined ? {} : { [name]: numberOption(name, text, { min: 1, whole: true }) };
  };
  const budget = options['memory-budget'];
  const settings = {
    ...(budget === undefined ? {} : { memoryBudget: 1e6 * numberOption('memory-budget', budget, { min: 0 }) }),
    batch: numberOption('batch', options.batch, { min: 1, whole: true }),
    precision: choiceOption('precision', options.precision, ['f32', 'f16', 'int8']),
    ...size('height'),
    ...size('width'),
    target: { adapter: options.target, slowCompiler: false },
  } as const;
  const file = path === undefined ? null : await describeFile(path, options.flags);
  const configs = file ? (file.model ? [file.model.config] : []) : configsFromFlags(parseFlags(options.flags!));
  const models = configs.map((config) => summarize(config, settings));
  const step = stepOf(configs, settings);
  if (options.json) process.stdout.write(`${JSON.stringify({ file, models, step })}\n`);
  else {
    const parts = [
      ...(file ? [fileText(path!, file, options.tensors)] : []),
      ...models.map((model) => modelText(model, settings)),
      stepText(step, settings),
    ];
    process.stdout.write(`${parts.join('\n').trimEnd()}\n`);
  }
  return 0;
}

async function describeFile(path: string, flags: string | undefined): Promise<Description> {
  const file = await openCheckpointFile(path);
  try {
    return describeCheckpoint(file, flags === undefined ? null : configFromFlags(parseFlags(flags), file.tensors));
  } finally {
    await file.close();
  }
}

const ORIGINS = {
  metadata: 'as the file’s metadata say',
  shapes: 'as the names and shapes of its tensors tell',
  given: 'as the flags say',
} as const;

function fileText(path: string, file: Description, listed: boolean): string {
  const { format, tensors, parameters, storage, metadata, model, problem } = file;
  const lines = [
    `${path}: ${format}, ${bytes(file.bytes)}; ${tensors.length} tensors, ${parameters.toLocaleString('en')} numbers`,
    ...storage.map(({ dtype, tensors: some, bytes: size }) => `  ${dtype}: ${some} tensors, ${bytes(size)}`),
    ...Object.entries(metadata).map(([key, value]) => `  ${key}: ${value.slice(0, 200)}`),
    ...(listed ? tensors.map(({ name, dtype, shape }) => `  ${name} ${dtype} [${shape.join(', ')}]`) : []),
  ];
  if (problem !== null) lines.push(`Not a model that can be run: ${problem}`);
  if (model) {
    lines.push(`Known ${ORIGINS[model.from]}.`);
    for (const { argument, assumed, reason, flag } of model.assumptions) {
      lines.push(
        `  Assumed: ${argument} ${JSON.stringify(assumed)}, ${reason}${flag === '' ? '' : `; ${flag} says otherwise`}.`,
      );
    }
    lines.push(...model.needs.map((need) => `  To make pictures it needs ${need}.`));
  }
  return `${lines.join('\n')}\n`;
}

function stepOf(configs: readonly ModelConfig[], settings: SummaryOptions): PlanSummary | null {
  const model = configs.find((c) => c.kind !== 'classifier');
  if (!model) return null;
  const guide = configs.find((c) => c.kind === 'classifier');
  return summarizeStep(
    shapedModel(model, settings) as Parameters<typeof summarizeStep>[0],
    guide ? (shapedModel(guide, settings) as Parameters<typeof summarizeStep>[1]) : null,
    settings,
  );
}

const KINDS = { unet: 'U-Net', super_resolution: 'Super-resolution U-Net', classifier: 'Classifier' } as const;

/** What the figures are for. */
interface Given {
  readonly batch: number;
  readonly precision: MatrixFormat;
}

function modelText({ config, parameters, multiplyAdds, layers, plans }: ModelSummary, given: Given): string {
  const { model, diffusion, nullClass } = config;
  const labels = config.kind === 'classifier' ? null : config.model.num_classes;
  const facts = [
    `${model.image_size} x ${model.image_size}`,
    `${model.in_channels} → ${model.out_channels}${config.kind === 'classifier' ? ' classes' : ' channels'}`,
    ...(labels === null
      ? []
      : [`${labels} classes${nullClass === null ? '' : `, the null class ${nullClass} among them`}`]),
    ...(diffusion
      ? [
          `${diffusion.steps} ${diffusion.noise_schedule} steps${config.kind === 'classifier' ? '' : `, ${diffusion.mean_type}, ${diffusion.var_type}`}`,
        ]
      : []),
  ];
  const head = `${KINDS[config.kind]}: ${facts.join('; ')}`;
  const total = `${parameters.toLocaleString('en')} parameters, ${count(multiplyAdds)} multiply-adds in a forward pass at batch ${given.batch}`;
  return [head, total, ...tree(layers), ...plans.map((plan) => planText(plan, given)), ''].join('\n');
}

/** Layers under the modules they belong to: `input_blocks`, then 1.0, 1.1 and so on. */
function tree(layers: readonly LayerSummary[]): string[] {
  const groups: { name: string; layers: LayerSummary[] }[] = [];
  for (const layer of layers) {
    const [top = ''] = layer.name.split('.');
    const last = groups.at(-1);
    if (last?.name === top) last.layers.push(layer);
    else groups.push({ name: top, layers: [layer] });
  }
  const rows: [string, LayerSummary | null][] = [];
  groups.forEach((group, g) => {
    const [branch, trunk] = g === groups.length - 1 ? ['└─', '  '] : ['├─', '│ '];
    const alone = group.layers.length === 1 && group.layers[0]!.name === group.name;
    rows.push([`${branch} ${group.name}`, alone ? group.layers[0]! : null]);
    if (alone) return;
    group.layers.forEach((layer, i) => {
      const twig = i === group.layers.length - 1 ? '└─' : '├─';
      rows.push([`${trunk} ${twig} ${layer.name.slice(group.name.length + 1)}`, layer]);
    });
  });
  const nameWidth = Math.max(...rows.map(([name]) => name.length));
  const whatWidth = Math.max(...rows.map(([, layer]) => layer?.what.length ?? 0));
  return rows.map(([name, layer]) => {
    if (!layer) return name;
    const numbers = [
      count(layer.parameters).padStart(8),
      count(layer.multiplyAdds).padStart(8),
      layer.shape ? describeShape(layer.shape) : '',
    ];
    return `${name.padEnd(nameWidth)}  ${layer.what.padEnd(whatWidth)}  ${numbers.join('  ')}`.trimEnd();
  });
}

function planText(plan: PlanSummary, { precision }: Given): string {
  const { what, dispatches, recomputed, multiplyAdds, weightBytes, activationBytes, liveBytes, problem } = plan;
  const peak = `peak ${bytes(weightBytes + activationBytes)}`;
  const parts = `weights ${bytes(weightBytes)} as ${precision}, activations ${bytes(activationBytes)}, of which ${bytes(liveBytes)} alive at once`;
  const again = recomputed === 0 ? '' : `, ${recomputed} of them to compute anew what did not fit`;
  const text = `Plan of the ${what}: ${dispatches} dispatches${again}, ${count(multiplyAdds)} multiply-adds, ${peak} (${parts})`;
  return problem === null ? text : `${text}\n  Not within the budget: ${problem}.`;
}

const stepText = (step: PlanSummary | null, given: Given): string => (step ? `${planText(step, given)}\n` : '');

function scaled(value: number, units: readonly string[], base: number): string {
  let at = 0;
  let rest = value;
  while (rest >= base && at < units.length - 1) {
    rest /= base;
    at++;
  }
  const digits = at === 0 ? 0 : rest < 10 ? 2 : rest < 100 ? 1 : 0;
  return `${rest.toFixed(digits)}${units[at] === '' ? '' : ` ${units[at]}`}`;
}

const count = (value: number): string => scaled(value, ['', 'k', 'M', 'G', 'T'], 1000);
const bytes = (value: number): string => scaled(value, ['B', 'kB', 'MB', 'GB'], 1000);
