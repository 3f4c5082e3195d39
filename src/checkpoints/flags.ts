/**
 * @file Configurations from the words of openai/guided-diffusion's command line, by the rules of its `script_util.py`.
 *
 *   --image_size 64 --num_channels 192 --num_res_blocks 3 --class_cond True --learn_sigma True …
 *
 * One line may speak of two models, as that of `classifier_sample.py` does: a U-Net and the classifier that guides it.
 * What is left out has the script's default. Flags that concern training or sampling alone are accepted and kept aside.
 */
import type { ClassifierArguments, Pool } from '../layers/classifier.ts';
import type { UNetArguments } from '../layers/unet.ts';
import { CheckpointError, OptionError } from '../runtime/errors.ts';
import { checkArchitecture, type ModelConfig } from './config.ts';

export type ModelKind = ModelConfig['kind'];

/** What a line of flags says. */
export interface Flags {
  /** The models that the line speaks of: a super-resolution model, or a U-Net, a classifier, or both. */
  readonly kinds: readonly ModelKind[];
  /** Flags that describe no model (`--batch_size`, `--timestep_respacing`, …), as they were given. */
  readonly others: ReadonlyMap<string, string>;
  /**
   * The configuration of one kind of model. Any kind may be asked for, since every flag has a default: the lines of the
   * released models leave out what their classifiers have by default.
   *
   * @throws OptionError if the script would refuse these flags for such a model
   */
  config<K extends ModelKind>(kind: K): Extract<ModelConfig, { kind: K }>;
}

/** `NUM_CLASSES` of the script: ImageNet's. */
const CLASSES = 1000;

type Type = 'whole' | 'truth' | 'text' | 'number';

interface Definition {
  readonly type: Type;
  /** As it would stand on the command line. */
  readonly fallback: string;
  /** Whose flag it is; several where models share it. */
  readonly of: readonly ModelKind[];
}

const UNETS: readonly ModelKind[] = ['unet', 'super_resolution'];
const ALL: readonly ModelKind[] = ['unet', 'super_resolution', 'classifier'];
const flag = (type: Type, fallback: string, of: readonly ModelKind[]): Definition => ({ type, fallback, of });

/** `model_and_diffusion_defaults`, `classifier_defaults` and `sr_model_and_diffusion_defaults`. */
const FLAGS: Readonly<Record<string, Definition>> = {
  image_size: flag('whole', '64', ['unet', 'classifier']),
  num_channels: flag('whole', '128', UNETS),
  num_res_blocks: flag('whole', '2', UNETS),
  num_heads: flag('whole', '4', UNETS),
  num_heads_upsample: flag('whole', '-1', UNETS),
  num_head_channels: flag('whole', '-1', UNETS),
  attention_resolutions: flag('text', '16,8', UNETS),
  channel_mult: flag('text', '', ['unet']),
  dropout: flag('number', '0', UNETS),
  class_cond: flag('truth', 'False', UNETS),
  use_checkpoint: flag('truth', 'False', UNETS),
  use_scale_shift_norm: flag('truth', 'True', UNETS),
  resblock_updown: flag('truth', 'False', UNETS),
  use_fp16: flag('truth', 'False', UNETS),
  use_new_attention_order: flag('truth', 'False', ['unet']),
  large_size: flag('whole', '256', ['super_resolution']),
  small_size: flag('whole', '64', ['super_resolution']),
  classifier_use_fp16: flag('truth', 'False', ['classifier']),
  classifier_width: flag('whole', '128', ['classifier']),
  classifier_depth: flag('whole', '2', ['classifier']),
  classifier_attention_resolutions: flag('text', '32,16,8', ['classifier']),
  classifier_use_scale_shift_norm: flag('truth', 'True', ['classifier']),
  classifier_resblock_updown: flag('truth', 'True', ['classifier']),
  classifier_pool: flag('text', 'attention', ['classifier']),
  learn_sigma: flag('truth', 'False', ALL),
  diffusion_steps: flag('whole', '1000', ALL),
  noise_schedule: flag('text', 'linear', ALL),
  timestep_respacing: flag('text', '', ALL),
  use_kl: flag('truth', 'False', ALL),
  predict_xstart: flag('truth', 'False', ALL),
  rescale_timesteps: flag('truth', 'False', ALL),
  rescale_learned_sigmas: flag('truth', 'False', ALL),
};

/** What the scripts take beside a model's flags. */
const SCRIPT_FLAGS = new Set(
  `anneal_lr base_samples batch_size classifier_path classifier_scale clip_denoised data_dir ema_rate eval_interval
   fp16_scale_growth iterations log_interval lr lr_anneal_steps microbatch model_path noised num_samples
   resume_checkpoint save_interval schedule_sampler use_ddim val_data_dir weight_decay`.split(/\s+/),
);

/** Multipliers of the width by image size. The super-resolution model has none for 128, and its own for 512. */
const CHANNEL_MULT: Readonly<Record<number, readonly number[]>> = {
  64: [1, 2, 3, 4],
  128: [1, 1, 2, 3, 4],
  256: [1, 1, 2, 2, 4, 4],
  512: [0.5, 1, 1, 2, 2, 4, 4],
};
const LARGE_CHANNEL_MULT: Readonly<Record<number, readonly number[]>> = {
  64: [1, 2, 3, 4],
  256: [1, 1, 2, 2, 4, 4],
  512: [1, 1, 2, 2, 4, 4],
};

/** Classifiers made by the script have heads of this width, whatever the flags say. */
const CLASSIFIER_HEAD_CHANNELS = 64;

const POOLS: readonly Pool[] = ['attention', 'adaptive', 'spatial', 'spatial_v2'];

/** The configuration of each model that flags describe. */
export const configsFromFlags = (flags: Flags): ModelConfig[] => flags.kinds.map((kind) => flags.config(kind));

/**
 * @param text flags as on a command line; values may be quoted, `--name=value` is understood, the last of a kind counts
 * @throws OptionError naming the flag: unknown, without a value, or with one of another type
 */
export function parseFlags(text: string): Flags {
  const given = new Map<string, string>();
  const others = new Map<string, string>();
  for (const [name, value] of pairs(words(text))) {
    if (Object.hasOwn(FLAGS, name)) given.set(name, value);
    else if (SCRIPT_FLAGS.has(name)) others.set(name, value);
    else throw new OptionError(`--${name} is no flag of guided-diffusion${suggestion(name)}`);
  }
  const values = new Values(given);
  for (const name of given.keys()) values.check(name);
  const kinds = kindsOf(given);
  if (given.has('timestep_respacing')) others.set('timestep_respacing', given.get('timestep_respacing')!);
  return {
    kinds,
    others,
    config: <K extends ModelKind>(kind: K) => configOf(values, kind) as Extract<ModelConfig, { kind: K }>,
  };
}

/** Splits as a shell would, as far as flags need it: at white space, quotes kept together, a line's \ dropped. */
function words(text: string): string[] {
  const found: string[] = [];
  const pattern = /\s*((?:"[^"]*"|'[^']*'|[^\s"'])+)\s*/gy;
  const joined = text.replace(/\\\r?\n/g, ' ');
  let at = 0;
  for (let match = pattern.exec(joined); match; match = pattern.exec(joined)) {
    found.push(match[1]!.replace(/"([^"]*)"|'([^']*)'/g, (_, a, b) => a ?? b));
    at = pattern.lastIndex;
  }
  if (joined.slice(at).trim() !== '') throw new OptionError(`a quote is not closed in the flags: ${joined.slice(at)}`);
  return found;
}

function* pairs(list: readonly string[]): Generator<[name: string, value: string]> {
  for (let i = 0; i < list.length; i++) {
    const word = list[i]!;
    const match = /^--([^=]+)(?:=(.*))?$/s.exec(word);
    if (!match) throw new OptionError(`flags should be pairs "--name value", found "${word}"`);
    const name = match[1]!;
    const value = match[2] ?? list[++i];
    if (value === undefined || /^--[a-z]/.test(value)) throw new OptionError(`--${name} lacks its value`);
    yield [name, value];
  }
}

/** The flag that was probably meant: one that begins alike, or contains what was written. */
function suggestion(name: string): string {
  const near = Object.keys(FLAGS).filter((known) => known.startsWith(name) || known.includes(name));
  return near.length > 0
    ? `; did you mean --${near.slice(0, 3).join(' or --')}?`
    : `; known are ${Object.keys(FLAGS)
        .map((known) => `--${known}`)
        .join(', ')}`;
}

function kindsOf(given: ReadonlyMap<string, string>): readonly ModelKind[] {
  const only = (kind: ModelKind) => [...given.keys()].filter((name) => FLAGS[name]!.of.join() === kind);
  if (only('super_resolution').length > 0) {
    const wrong = [...given.keys()].find((name) => !FLAGS[name]!.of.includes('super_resolution'));
    if (wrong === undefined) return ['super_resolution'];
    throw new OptionError(
      `--${wrong} is no flag of a super-resolution model, which --large_size or --small_size names`,
    );
  }
  const ofUnet = [...given.keys()].some((name) => FLAGS[name]!.of.includes('unet') && !isShared(name));
  const ofClassifier = only('classifier').length > 0;
  return ofClassifier ? (ofUnet ? ['unet', 'classifier'] : ['classifier']) : ['unet'];
}

/** Whether a flag tells nothing about which model is meant. */
const isShared = (name: string): boolean => FLAGS[name]!.of.includes('classifier');

/** The values of the flags, given or not, by type. */
class Values {
  readonly #given: ReadonlyMap<string, string>;

  constructor(given: ReadonlyMap<string, string>) {
    this.#given = given;
  }

  check(name: string): void {
    const { type } = FLAGS[name]!;
    if (type === 'whole') this.whole(name);
    else if (type === 'truth') this.truth(name);
    else if (type === 'number' && !Number.isFinite(Number(this.text(name) || 'none')))
      throw new OptionError(`--${name} should be a number, found "${this.text(name)}"`);
  }

  text(name: string): string {
    return this.#given.get(name) ?? FLAGS[name]!.fallback;
  }

  /** An integer above zero, or -1 where that stands for "not given". */
  whole(name: string): number {
    const text = this.text(name);
    const value = /^[+-]?\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
    const absent = FLAGS[name]!.fallback === '-1';
    if (value > 0 || (absent && value === -1)) return value;
    throw new OptionError(`--${name} should be a whole number from 1 on${absent ? ', or -1' : ''}, found "${text}"`);
  }

  /** The words that the scripts take for true and false. */
  truth(name: string): boolean {
    const text = this.text(name).toLowerCase();
    if (['yes', 'true', 't', 'y', '1'].includes(text)) return true;
    if (['no', 'false', 'f', 'n', '0'].includes(text)) return false;
    throw new OptionError(`--${name} should be True or False, found "${this.text(name)}"`);
  }

  /** Whole numbers from 1 on, separated by commas. */
  list(name: string): number[] {
    const text = this.text(name);
    const numbers = text.split(',').map((part) => (/^\s*\+?\d{1,9}\s*$/.test(part) ? Number(part) : Number.NaN));
    if (numbers.every((n) => n > 0)) return numbers;
    throw new OptionError(`--${name} should be whole numbers from 1 on, separated by commas, found "${text}"`);
  }

  choice<T extends string>(name: string, choices: readonly T[]): T {
    const text = this.text(name);
    if ((choices as readonly string[]).includes(text)) return text as T;
    throw new OptionError(`--${name} should be ${choices.join(' or ')}, found "${text}"`);
  }
}

function multipliers(table: Readonly<Record<number, readonly number[]>>, name: string, size: number) {
  const found = table[size];
  if (found) return found;
  const way = name === 'image_size' ? '; for another size of a U-Net give --channel_mult' : '';
  throw new OptionError(`--${name} should be ${Object.keys(table).join(', ')}, found ${size}${way}`);
}

/** Pixel sizes to downsampling factors. A size above the image's gives 0 in the script, which no level has. */
const factors = (size: number, resolutions: readonly number[]): number[] =>
  resolutions.map((resolution) => Math.floor(size / resolution)).filter((factor) => factor > 0);

function configOf(values: Values, kind: ModelKind): ModelConfig {
  const described = {
    diffusion: {
      steps: values.whole('diffusion_steps'),
      noise_schedule: values.choice('noise_schedule', ['linear', 'cosine']),
      var_type: values.truth('learn_sigma') ? ('learned_range' as const) : ('fixed_large' as const),
      mean_type: values.truth('predict_xstart') ? ('start_x' as const) : ('epsilon' as const),
      rescale_timesteps: values.truth('rescale_timesteps'),
    },
    classes: null,
    nullClass: null,
  };
  const config: ModelConfig =
    kind === 'classifier'
      ? { ...described, kind, model: classifierOf(values) }
      : { ...described, kind, model: unetOf(values, kind) };
  try {
    checkArchitecture(config);
  } catch (error) {
    if (error instanceof CheckpointError) throw new OptionError(`these flags make no model: ${error.message}`);
    throw error;
  }
  return config;
}

/** `create_model` and `sr_create_model`. */
function unetOf(values: Values, kind: 'unet' | 'super_resolution'): UNetArguments {
  const large = kind === 'super_resolution';
  const sizeFlag = large ? 'large_size' : 'image_size';
  const size = values.whole(sizeFlag);
  const own = large ? '' : values.text('channel_mult');
  const table = large ? LARGE_CHANNEL_MULT : CHANNEL_MULT;
  return {
    image_size: size,
    in_channels: 3,
    model_channels: values.whole('num_channels'),
    out_channels: values.truth('learn_sigma') ? 6 : 3,
    num_res_blocks: values.whole('num_res_blocks'),
    attention_resolutions: factors(size, values.list('attention_resolutions')),
    channel_mult: own === '' ? multipliers(table, sizeFlag, size) : values.list('channel_mult'),
    conv_resample: true,
    num_classes: values.truth('class_cond') ? CLASSES : null,
    num_heads: values.whole('num_heads'),
    num_head_channels: values.whole('num_head_channels'),
    num_heads_upsample: values.whole('num_heads_upsample'),
    use_scale_shift_norm: values.truth('use_scale_shift_norm'),
    resblock_updown: values.truth('resblock_updown'),
    use_new_attention_order: large ? false : values.truth('use_new_attention_order'),
    rescale_residual: false,
  };
}

/** `create_classifier`. */
function classifierOf(values: Values): ClassifierArguments {
  const size = values.whole('image_size');
  return {
    image_size: size,
    in_channels: 3,
    model_channels: values.whole('classifier_width'),
    out_channels: CLASSES,
    num_res_blocks: values.whole('classifier_depth'),
    attention_resolutions: factors(size, values.list('classifier_attention_resolutions')),
    channel_mult: multipliers(CHANNEL_MULT, 'image_size', size),
    conv_resample: true,
    num_heads: 1,
    num_head_channels: CLASSIFIER_HEAD_CHANNELS,
    use_scale_shift_norm: values.truth('classifier_use_scale_shift_norm'),
    resblock_updown: values.truth('classifier_resblock_updown'),
    use_new_attention_order: false,
    rescale_residual: false,
    pool: values.choice('classifier_pool', POOLS),
  };
}
