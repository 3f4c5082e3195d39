/**
 * @file `generate`: pictures of chosen classes, as a contact sheet.
 */

import type { Model } from '../checkpoints/model.ts';
import { toNumbers, writeSafetensors } from '../checkpoints/safetensors.ts';
import { classifierFreeGuidance, classifierGuidance, type Guidance, noGuidance } from '../diffusion/guidance.ts';
import { type SampleOptions, type SampleResult, sample } from '../diffusion/sample.ts';
import type { Runtime } from '../runtime/device.ts';
import { OptionError } from '../runtime/errors.ts';
import { openAdapter } from './adapter.ts';
import { readArguments } from './arguments.ts';
import { readModel } from './checkpoint_files.ts';
import { classNames, readLabels } from './classes.ts';
import { duration, Progress } from './console.ts';
import { drawSheet } from './contact_sheet.ts';
import { checkWritable, readTensors, shippedWeights, writeWhole } from './files.ts';
import { OPTIONS, type Options, readSettings, type Settings, scaleOf, sheetName } from './generate_settings.ts';
import { readMask, readPictures } from './pictures.ts';
import { encodePng } from './png.ts';

export const generateHelp = {
  usage: 'generate [options]',
  summary: 'samples pictures and writes them as a PNG contact sheet',
  options: OPTIONS,
};

/** @returns the exit status */
export async function generate(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(generateHelp, argv);
  if (positionals.length > 0) throw new OptionError(`generate takes options only, found "${positionals[0]}"`);
  const settings = readSettings(options);
  const out = options.out ?? `out/${sheetName(settings, options)}.png`;
  if (!out.toLowerCase().endsWith('.png')) throw new OptionError(`--out should name a .png file, found "${out}"`);
  for (const path of [out, options.raw]) if (path !== undefined) checkWritable(path);

  const started = performance.now();
  const { found, runtime } = await openAdapter(options.adapter);
  const unet = await ownModel(runtime, options.model, 'fashion-mnist-unet.safetensors', options.flags);
  const upsampler = options.upsampler === undefined ? null : await readUpsampler(runtime, options, unet);
  const guidance = await readGuidance(runtime, options, settings);
  const names = classNames(unet, guidance);
  const start = readStart(options, settings, unet);
  const labels = readLabels(options.class, names, options.count === undefined ? start.count : Number(options.count));
  const common = {
    labels,
    sampler: settings.sampler,
    eta: settings.eta,
    clipDenoised: settings.clipDenoised,
    ...(settings.dynamicThreshold === null ? {} : { dynamicThreshold: settings.dynamicThreshold }),
    seed: settings.seed,
    checkFinite: options['check-finite'],
  };
  const base = await run(runtime, 'Sampling', {
    ...common,
    unet,
    guidance,
    respacing: settings.respacing,
    scale: scaleOf(settings, labels.length),
    ...start.of(labels.length),
  });
  const large = upsampler ? await enlarge(runtime, upsampler, base.result, { ...common, settings }) : null;
  const { result } = large ?? base;
  const seconds = (performance.now() - started) / 1000;
  const secondsPerStep = base.secondsPerStep ?? seconds;

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

/** Samples with progress bars. */
async function run(runtime: Runtime, what: string, options: SampleOptions) {
  const compiling = new Progress('Compiling');
  const sampling = new Progress(what);
  let from = 0;
  const result: SampleResult = await sample(runtime, {
    ...options,
    onCompile: (done, total) => compiling.update(done, total, 'kernels'),
    onStep: (_step, { done, total }) => {
      if (done === 1) from = performance.now();
      sampling.update(done, total, 'steps');
    },
  });
  const steps = result.steps * result.batches;
  // The first step is left out: it includes what the driver compiles late.
  const secondsPerStep = steps > 1 ? (performance.now() - from) / 1000 / (steps - 1) : null;
  return { result, secondsPerStep };
}

/** A model the user names, or a shipped one, which describes itself. */
const ownModel = (runtime: Runtime, path: string | undefined, shipped: string, flags: string | undefined) =>
  path === undefined ? readModel(runtime, shippedWeights(shipped)) : readModel(runtime, path, flags);

async function readUpsampler(runtime: Runtime, options: Options, unet: Model): Promise<Model> {
  const path = options.upsampler!;
  const model = await readModel(runtime, path, options['upsampler-flags']);
  if (!model.isSuperResolution()) {
    throw new OptionError(`--upsampler needs a super-resolution model, ${path} is a ${model.config.kind}`);
  }
  if (model.config.model.in_channels !== unet.config.model.in_channels) {
    throw new OptionError(
      `--upsampler enlarges pictures of ${model.config.model.in_channels} channels, --model makes ${unet.config.model.in_channels}`,
    );
  }
  return model;
}

/** The second stage: the upsampler, unguided, sees the pictures and, where it knows them, their classes. */
function enlarge(
  runtime: Runtime,
  upsampler: Model,
  { samples, shape: [, , height, width] }: SampleResult,
  { settings, ...common }: Omit<SampleOptions, 'unet' | 'guidance'> & { readonly settings: Settings },
) {
  const conditional = upsampler.isSuperResolution() && upsampler.config.model.num_classes !== null;
  return run(runtime, 'Enlarging', {
    ...common,
    unet: upsampler,
    guidance: noGuidance({ conditional }),
    respacing: settings.upsamplerRespacing,
    lowRes: { pictures: samples.map((value) => Math.min(1, Math.max(-1, value))), height, width },
  });
}

async function readGuidance(runtime: Runtime, options: Options, settings: Settings): Promise<Guidance> {
  const { guidance, conditional, convention, at, filter } = settings;
  if (guidance === 'free') return classifierFreeGuidance({ convention });
  if (guidance === 'none') return noGuidance({ conditional });
  const classifier = await ownModel(runtime, options.classifier, 'fashion-mnist-classifier.safetensors', options.flags);
  if (!classifier.isClassifier()) {
    throw new OptionError(`--classifier needs a classifier, ${options.classifier} is a U-Net`);
  }
  return classifierGuidance(classifier, { conditional, at, filter });
}

/** Where sampling begins: how many pictures that fixes, if any, and the options of a run of so many. */
interface Start {
  readonly count: number | null;
  of(count: number): Pick<SampleOptions, 'start' | 'image' | 'inpaint' | 'height' | 'width'>;
}

function readStart(options: Options, settings: Settings, unet: Model): Start {
  const { in_channels: channels, image_size } = unet.config.model;
  if (options.noise !== undefined) return readNoise(options.noise, channels);
  if (options.image === undefined) return { count: null, of: () => ({}) };
  const shape = { channels, height: image_size, width: image_size };
  const given = readPictures(options.image, shape);
  const mask = options.inpaint === undefined ? null : readMask(options.inpaint, shape);
  const size = channels * image_size * image_size;
  return {
    // One picture serves for as many as are asked for.
    count: given.count === 1 ? null : given.count,
    of: (count) => {
      const pictures = repeated(given.data, count * size);
      return {
        ...(settings.strength === null ? {} : { image: { pictures, strength: settings.strength } }),
        ...(mask ? { inpaint: { pictures, mask: repeated(mask, count * size) } } : {}),
      };
    },
  };
}

/** Values again and again, to a length. */
const repeated = (values: Float32Array, length: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => values[i % values.length]!);

/** x_T from a file. */
function readNoise(path: string, ours: number): Start {
  const tensor = readTensors(path, 'noise file').tensors.get('x_T');
  if (!tensor) throw new OptionError(`${path} has no tensor x_T`);
  const [count = 0, channels = 0, height = 0, width = 0] = tensor.shape;
  if (tensor.shape.length !== 4 || channels !== ours || tensor.bytes.byteLength === 0) {
    throw new OptionError(`x_T in ${path} should be [N, ${ours}, H, W], found [${tensor.shape.join(', ')}]`);
  }
  const data = Float32Array.from(toNumbers(tensor));
  return {
    count,
    of: (asked) => {
      if (count < asked) throw new OptionError(`${path} holds x_T for ${count} pictures, ${asked} are asked for`);
      return { start: data.subarray(0, asked * channels * height * width), height, width };
    },
  };
}

/** What a file says of how it was made. */
function recordedOptions(settings: Settings, labels: readonly (number | null)[]) {
  return { ...settings, labels };
}
