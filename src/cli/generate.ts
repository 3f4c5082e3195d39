/**
 * @file `generate`: pictures of chosen classes, as a contact sheet.
 */
import type { Model } from '../checkpoints/model.ts';
import { toNumbers, writeSafetensors } from '../checkpoints/safetensors.ts';
import { classifierFreeGuidance, classifierGuidance, type Guidance, noGuidance } from '../diffusion/guidance.ts';
import { seedWords } from '../diffusion/noise.ts';
import { sample } from '../diffusion/sample.ts';
import { requestNodeDevice } from '../node/device.ts';
import { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { numberOption, type OptionTable, readArguments } from './arguments.ts';
import { readModel } from './checkpoint_files.ts';
import { describeAdapterLine, duration, Progress } from './console.ts';
import { drawSheet } from './contact_sheet.ts';
import { checkWritable, readTensors, shippedWeights, writeWhole } from './files.ts';
import { encodePng } from './png.ts';

const OPTIONS = {
  class: {
    type: 'string',
    multiple: true,
    value: 'NAME|INDEX|all|null',
    help: 'classes, in turn up to the count; commas allowed (all)',
  },
  count: { type: 'string', value: 'N', help: 'number of pictures (one for each class named)' },
  guidance: { type: 'string', value: 'KIND', help: 'classifier, free or none', default: 'classifier' },
  conditional: { type: 'boolean', help: 'the U-Net sees the class too, not only the guidance' },
  scale: { type: 'string', value: 'S', help: 'guidance scale (4 with a classifier, 2 without)' },
  sampler: { type: 'string', value: 'NAME', help: 'ddim or ddpm', default: 'ddim' },
  steps: { type: 'string', value: 'N', help: 'denoising steps (25 with ddim, 50 with ddpm)' },
  respacing: { type: 'string', value: 'LIST', help: 'timesteps by section, as "10,10,5"; in place of --steps' },
  eta: { type: 'string', value: 'E', help: 'noise of ddim, 0 for none (0)' },
  seed: { type: 'string', value: 'K', help: 'seed of all noise', default: '0' },
  noise: { type: 'string', value: 'FILE', help: 'safetensors file whose tensor x_T [N,C,H,W] is the start' },
  model: { type: 'string', value: 'FILE', help: 'U-Net checkpoint (the shipped one)' },
  classifier: { type: 'string', value: 'FILE', help: 'classifier checkpoint (the shipped one)' },
  flags: {
    type: 'string',
    value: 'FLAGS',
    help: 'what --model and --classifier are, in guided-diffusion’s flags, where they do not say',
  },
  out: { type: 'string', value: 'FILE.png', help: 'the contact sheet (a name made of the settings, in out/)' },
  raw: { type: 'string', value: 'FILE', help: 'writes samples and labels as a safetensors file too' },
  adapter: {
    type: 'string',
    value: 'NAME',
    help: 'auto, gpu, software, or a part of an adapter’s name',
    default: 'auto',
  },
  json: { type: 'boolean', help: 'prints one JSON object with adapter, times, memory and files' },
} as const satisfies OptionTable;

export const generateHelp = {
  usage: 'generate [options]',
  summary: 'samples pictures and writes them as a PNG contact sheet',
  options: OPTIONS,
};

type Options = ReturnType<typeof readArguments<typeof OPTIONS>>['options'];

/** @returns the exit status */
export async function generate(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(generateHelp, argv);
  if (positionals.length > 0) throw new OptionError(`generate takes options only, found "${positionals[0]}"`);
  const settings = readSettings(options);
  const out = options.out ?? `out/${settings.name}.png`;
  if (!out.toLowerCase().endsWith('.png')) throw new OptionError(`--out should name a .png file, found "${out}"`);
  for (const path of [out, options.raw]) if (path !== undefined) checkWritable(path);

  const started = performance.now();
  const found = await requestNodeDevice(settings.adapter);
  console.error(describeAdapterLine(found));
  const runtime = new Runtime(found.device);
  const unet = await readModel(
    runtime,
    options.model ?? shippedWeights('fashion-mnist-unet.safetensors'),
    options.model === undefined ? undefined : options.flags,
  );
  const guidance = await readGuidance(runtime, options, settings);
  const names = classNames(unet, guidance);
  const start = options.noise === undefined ? null : readStart(options.noise, unet);
  const labels = readLabels(options, names, start?.count ?? null);
  if (start && start.count < labels.length) {
    throw new OptionError(`${options.noise} holds x_T for ${start.count} pictures, ${labels.length} are asked for`);
  }

  const compiling = new Progress('Compiling');
  const sampling = new Progress('Sampling');
  let samplingFrom = 0;
  const size = start ? { height: start.height, width: start.width } : {};
  const result = await sample(runtime, {
    unet,
    guidance,
    labels,
    ...size,
    sampler: settings.sampler,
    respacing: settings.respacing,
    scale: settings.scale,
    eta: settings.eta,
    seed: settings.seed,
    ...(start ? { start: start.data.subarray(0, labels.length * start.picture) } : {}),
    onCompile: (done, total) => compiling.update(done, total, 'kernels'),
    onStep: (_step, { done, total }) => {
      if (done === 1) samplingFrom = performance.now();
      sampling.update(done, total, 'steps');
    },
  });
  const seconds = (performance.now() - started) / 1000;
  const steps = result.steps * result.batches;
  // The first step is left out: it includes what the driver compiles late.
  const secondsPerStep = steps > 1 ? (performance.now() - samplingFrom) / 1000 / (steps - 1) : seconds;

  const recorded = recordedOptions(settings, labels);
  const captions = labels.map((label) => (label === null ? 'any' : (names[label] ?? String(label))));
  const raster = drawSheet({ samples: result.samples, shape: result.shape, captions });
  writeWhole(out, encodePng(raster, { Software: 'pilotwave', Comment: JSON.stringify(recorded) }));
  const files = [out];
  if (options.raw !== undefined) {
    const missing = unet.config.nullClass ?? -1;
    const file = writeSafetensors(
      {
        samples: { dtype: 'F32', shape: result.shape, data: result.samples },
        labels: { dtype: 'I32', shape: [labels.length], data: Int32Array.from(labels, (label) => label ?? missing) },
      },
      { seed: String(settings.seed), adapter: found.adapter.name, options: JSON.stringify(recorded) },
    );
    writeWhole(options.raw, file);
    files.push(options.raw);
  }
  if (options.json) {
    const report = {
      adapter: found.adapter.name,
      software: found.adapter.software,
      pictures: labels.length,
      steps: result.steps,
      seconds,
      secondsPerStep,
      peakBytes: runtime.buffers.peakBytes,
      files,
      options: recorded,
    };
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else {
    const pictures = `${labels.length} picture${labels.length === 1 ? '' : 's'}`;
    console.error(`${pictures} in ${duration(seconds)}, ${duration(secondsPerStep)} a step.`);
    process.stdout.write(`${files.join('\n')}\n`);
  }
  runtime.dispose();
  found.device.destroy();
  return 0;
}

interface Settings {
  readonly guidance: Guidance['kind'];
  readonly conditional: boolean;
  readonly scale: number;
  readonly sampler: 'ddim' | 'ddpm';
  readonly respacing: string;
  readonly eta: number;
  readonly seed: number;
  readonly adapter: string;
  /** A file name that tells runs apart. */
  readonly name: string;
}

function choice<T extends string>(name: string, text: string, choices: readonly T[]): T {
  if ((choices as readonly string[]).includes(text)) return text as T;
  throw new OptionError(`--${name} should be ${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}, found "${text}"`);
}

/** A sheet of more pictures is no sheet. */
const MAX_COUNT = 10_000;

const DEFAULT_SCALE = { classifier: 4, free: 2, none: 0 } as const;
const DEFAULT_STEPS = { ddim: 25, ddpm: 50 } as const;

/** Everything that can be checked before a device or a file is touched. */
function readSettings(options: Options): Settings {
  const guidance = choice('guidance', options.guidance, ['classifier', 'free', 'none']);
  const sampler = choice('sampler', options.sampler, ['ddim', 'ddpm']);
  const scale = options.scale === undefined ? DEFAULT_SCALE[guidance] : numberOption('scale', options.scale);
  const eta = options.eta === undefined ? 0 : numberOption('eta', options.eta, { min: 0 });
  const seed = numberOption('seed', options.seed, { min: 0, whole: true });
  seedWords(seed);
  if (options.eta !== undefined && sampler === 'ddpm')
    throw new OptionError('--eta is an option of ddim; ddpm has none');
  if (options.scale !== undefined && guidance === 'none') throw new OptionError('--scale needs a guidance; it is none');
  if (options.conditional && guidance === 'free') {
    throw new OptionError(
      '--conditional is for classifier guidance or none; classifier-free guidance always sees the class',
    );
  }
  if (options.classifier !== undefined && guidance !== 'classifier') {
    throw new OptionError(`--classifier is for classifier guidance, the guidance is ${guidance}`);
  }
  if (options.steps !== undefined && options.respacing !== undefined) {
    throw new OptionError('--steps and --respacing exclude each other');
  }
  const steps =
    options.steps === undefined
      ? DEFAULT_STEPS[sampler]
      : numberOption('steps', options.steps, { min: 1, whole: true });
  const respacing = options.respacing ?? (sampler === 'ddim' ? `ddim${steps}` : `${steps}`);
  if (options.count !== undefined) numberOption('count', options.count, { min: 1, max: MAX_COUNT, whole: true });
  const conditional = options.conditional;
  const parts = [sampler, respacing.replace(/^ddim/, '').replaceAll(',', '-'), guidance];
  if (conditional) parts.push('conditional');
  if (guidance !== 'none') parts.push(`scale${scale}`);
  parts.push(`seed${seed}`);
  return {
    guidance,
    conditional,
    scale,
    sampler,
    respacing,
    eta,
    seed,
    adapter: options.adapter,
    name: parts.join('-'),
  };
}

async function readGuidance(
  runtime: Runtime,
  options: Options,
  { guidance, conditional }: Settings,
): Promise<Guidance> {
  if (guidance === 'free') return classifierFreeGuidance();
  if (guidance === 'none') return noGuidance({ conditional });
  const path = options.classifier ?? shippedWeights('fashion-mnist-classifier.safetensors');
  const classifier = await readModel(runtime, path, options.classifier === undefined ? undefined : options.flags);
  if (!classifier.isClassifier()) throw new OptionError(`--classifier needs a classifier, ${path} is a U-Net`);
  return classifierGuidance(classifier, { conditional });
}

/** Names of the classes, or their numbers where the checkpoints have no names. */
function classNames(unet: Model, guidance: Guidance): readonly string[] {
  if (!unet.isUNet()) throw new OptionError('--model needs a U-Net, this checkpoint is a classifier');
  const { classes, model, nullClass } = unet.config;
  if (classes) return classes;
  if (guidance.kind === 'classifier') {
    const { config } = guidance.classifier;
    return config.classes ?? Array.from({ length: config.model.out_channels }, (_, i) => String(i));
  }
  return Array.from({ length: (model.num_classes ?? 0) - (nullClass === null ? 0 : 1) }, (_, i) => String(i));
}

const plain = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/** A class by its number, its name in any spelling, or a word of its name that no other class has. */
function findClass(text: string, names: readonly string[]): number {
  if (/^\d+$/.test(text)) {
    if (Number(text) < names.length) return Number(text);
    throw new OptionError(`--class should be from 0 to ${names.length - 1}, found ${text}`);
  }
  const wanted = plain(text);
  const exact = names.findIndex((name) => plain(name) === wanted);
  if (exact >= 0) return exact;
  const byWord = names.flatMap((name, i) => (name.split(/[ /]/).some((part) => plain(part) === wanted) ? [i] : []));
  if (byWord.length === 1 && wanted !== '') return byWord[0]!;
  throw new OptionError(`unknown class "${text}"; known are ${names.join(', ')}, all, null`);
}

/** The class of each picture; null for none. */
function readLabels(options: Options, names: readonly string[], startCount: number | null): (number | null)[] {
  const asked = (options.class ?? ['all']).flatMap((text) => text.split(',')).map((text) => text.trim());
  const chosen = asked.flatMap((text): (number | null)[] => {
    if (text === 'all') return names.length > 0 ? names.map((_, i) => i) : [null];
    return [text === 'null' ? null : findClass(text, names)];
  });
  const count = options.count === undefined ? (startCount ?? chosen.length) : Number(options.count);
  return Array.from({ length: count }, (_, i) => chosen[i % chosen.length]!);
}

/** x_T from a file. */
function readStart(path: string, unet: Model) {
  const tensor = readTensors(path, 'noise file').tensors.get('x_T');
  if (!tensor) throw new OptionError(`${path} has no tensor x_T`);
  const [count = 0, channels = 0, height = 0, width = 0] = tensor.shape;
  const { in_channels: ours } = unet.config.model;
  if (tensor.shape.length !== 4 || channels !== ours || tensor.bytes.byteLength === 0) {
    throw new OptionError(`x_T in ${path} should be [N, ${ours}, H, W], found [${tensor.shape.join(', ')}]`);
  }
  return { data: Float32Array.from(toNumbers(tensor)), count, height, width, picture: channels * height * width };
}

/** What a file says of how it was made. */
function recordedOptions(settings: Settings, labels: readonly (number | null)[]) {
  const { name: _name, adapter: _adapter, ...rest } = settings;
  return { ...rest, labels };
}
