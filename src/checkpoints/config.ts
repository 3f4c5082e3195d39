/**
 * @file What a checkpoint says of itself: `__metadata__.config`, a JSON string with guided-diffusion's keyword arguments.
 *
 *   { "kind": "unet" | "classifier" | "super_resolution", "model": {...}, "diffusion": {...}, "classes": [...], "null_class": n }
 *
 * Arguments that are absent have the original's default. This project's own are `rescale_residual`, `norm_eps`,
 * `downsample_padding` and `frequency_shift` of a model, and `predict_v` of a process. Unknown ones are refused, so that a model is never built
 * differently from what its file asks for.
 */
import type { DiffusionArguments } from '../diffusion/gaussian_diffusion.ts';
import type { Parameter } from '../layers/builder.ts';
import * as classifier from '../layers/classifier.ts';
import { levelChannels } from '../layers/encoder.ts';
import * as superResolution from '../layers/super_resolution.ts';
import * as unet from '../layers/unet.ts';
import { CheckpointError } from '../runtime/errors.ts';
import { show } from './show.ts';
import type { TensorInfo } from './stored.ts';

interface Described {
  /** The process the model was trained with, as far as the file tells. */
  readonly diffusion: DiffusionArguments | null;
  /** Names of the classes, in the order of their numbers. */
  readonly classes: readonly string[] | null;
  /** The label that stands for "no class". */
  readonly nullClass: number | null;
}

export type ModelConfig = Described &
  (
    | { readonly kind: 'unet'; readonly model: unet.UNetArguments }
    | { readonly kind: 'super_resolution'; readonly model: unet.UNetArguments }
    | { readonly kind: 'classifier'; readonly model: classifier.ClassifierArguments }
  );

/** What a model is built from, without what the file says beside it. */
export type ModelArguments =
  | { readonly kind: 'unet' | 'super_resolution'; readonly model: unet.UNetArguments }
  | { readonly kind: 'classifier'; readonly model: classifier.ClassifierArguments };

type Json = Readonly<Record<string, unknown>>;

/** Arguments that change nothing at inference. */
const IRRELEVANT = new Set(['dropout', 'use_checkpoint', 'use_fp16', 'dims']);

/** Bounds on what a file may ask for: far above any model, and low enough that a list of its parameters is no attack. */
const MAX_SIZE = 1_000_000;
const MAX_BLOCKS = 128;
const MAX_LEVELS = 16;

/** Reads typed fields of a JSON object and remembers which were asked for. */
class Fields {
  readonly #json: Json;
  readonly #where: string;
  readonly #seen = new Set<string>();

  constructor(json: unknown, where: string) {
    if (typeof json !== 'object' || json === null || Array.isArray(json)) {
      throw new CheckpointError(`${where} should be an object, found ${show(json)}`);
    }
    this.#json = json as Json;
    this.#where = where;
  }

  #get<T>(name: string, fallback: T | undefined, what: string, ok: (value: unknown) => value is T): T {
    this.#seen.add(name);
    const value = this.#json[name];
    if (value === undefined && fallback !== undefined) return fallback;
    if (!ok(value)) throw new CheckpointError(`${this.#where}.${name} should be ${what}, found ${show(value)}`);
    return value;
  }

  /** A count, or -1 where -1 is the fallback and means "not given". */
  whole(name: string, fallback?: number, most = MAX_SIZE): number {
    const what = fallback === -1 ? `an integer from 1 to ${most}, or -1` : `an integer from 1 to ${most}`;
    const ok = (v: unknown): v is number =>
      Number.isInteger(v) && (((v as number) >= 1 && (v as number) <= most) || (fallback === -1 && v === -1));
    return this.#get(name, fallback, what, ok);
  }

  flag(name: string, fallback?: boolean): boolean {
    return this.#get(name, fallback, 'true or false', (v): v is boolean => typeof v === 'boolean');
  }

  list(name: string, fallback?: readonly number[]): readonly number[] {
    const numbers = (v: unknown): v is number[] =>
      Array.isArray(v) && v.length <= MAX_LEVELS && v.every((n) => typeof n === 'number' && n > 0 && n <= MAX_SIZE);
    return this.#get(name, fallback, `a list of at most ${MAX_LEVELS} positive numbers`, numbers);
  }

  choice<T extends string>(name: string, choices: readonly T[], fallback?: T): T {
    const one = (v: unknown): v is T => (choices as readonly unknown[]).includes(v);
    return this.#get(name, fallback, choices.map((c) => `"${c}"`).join(' or '), one);
  }

  /** A field that stays absent where it is not given. */
  optional<K extends string, T>(name: K, what: string, ok: (value: unknown) => value is T): { [P in K]?: T } {
    if (this.#json[name] === undefined) return {};
    return { [name]: this.#get(name, undefined, what, ok) } as { [P in K]?: T };
  }

  optionalWhole(name: string): number | null {
    const ok = (v: unknown): v is number | null =>
      v === null || (Number.isInteger(v) && (v as number) >= 0 && (v as number) <= MAX_SIZE);
    return this.#get<number | null>(name, null, `an integer from 0 to ${MAX_SIZE}, or null`, ok);
  }

  /** Complains about fields that nobody asked for. */
  end(): void {
    for (const name of Object.keys(this.#json)) {
      if (!this.#seen.has(name) && !IRRELEVANT.has(name)) {
        throw new CheckpointError(`${this.#where}.${name} is not an argument that this version knows`);
      }
    }
  }
}

function encoderArguments(fields: Fields) {
  return {
    image_size: fields.whole('image_size'),
    in_channels: fields.whole('in_channels'),
    model_channels: fields.whole('model_channels'),
    out_channels: fields.whole('out_channels'),
    num_res_blocks: fields.whole('num_res_blocks', undefined, MAX_BLOCKS),
    attention_resolutions: fields.list('attention_resolutions'),
    channel_mult: fields.list('channel_mult', [1, 2, 4, 8]),
    conv_resample: fields.flag('conv_resample', true),
    num_heads: fields.whole('num_heads', 1),
    num_head_channels: fields.whole('num_head_channels', -1),
    use_scale_shift_norm: fields.flag('use_scale_shift_norm', false),
    resblock_updown: fields.flag('resblock_updown', false),
    use_new_attention_order: fields.flag('use_new_attention_order', false),
    rescale_residual: fields.flag('rescale_residual', false),
    ...fields.optional(
      'norm_eps',
      'a number above 0 and below 1',
      (v): v is number => typeof v === 'number' && v > 0 && v < 1,
    ),
    ...fields.optional('downsample_padding', '0 or 1', (v): v is 0 | 1 => v === 0 || v === 1),
    ...fields.optional('frequency_shift', '0 or 1', (v): v is 0 | 1 => v === 0 || v === 1),
  };
}

/** Keyword arguments of guided-diffusion's UNetModel, checked and completed. */
export function unetArguments(json: unknown): unet.UNetArguments {
  const fields = new Fields(json, 'model');
  const args = {
    ...encoderArguments(fields),
    num_classes: fields.optionalWhole('num_classes'),
    num_heads_upsample: fields.whole('num_heads_upsample', -1),
  };
  fields.end();
  return args;
}

/** Keyword arguments of guided-diffusion's EncoderUNetModel, checked and completed. */
export function classifierArguments(json: unknown): classifier.ClassifierArguments {
  const fields = new Fields(json, 'model');
  const args = {
    ...encoderArguments(fields),
    pool: fields.choice('pool', ['attention', 'adaptive', 'spatial', 'spatial_v2'], 'adaptive'),
  };
  fields.whole('num_heads_upsample', -1);
  fields.end();
  return args;
}

/** The flags of guided-diffusion's `create_gaussian_diffusion`. */
function diffusionArguments(json: unknown): DiffusionArguments {
  const fields = new Fields(json, 'diffusion');
  const learned = fields.flag('learn_sigma', false);
  const small = fields.flag('sigma_small', false);
  const args: DiffusionArguments = {
    steps: fields.whole('steps', 1000),
    noise_schedule: fields.choice('noise_schedule', ['linear', 'cosine'], 'linear'),
    var_type: learned ? 'learned_range' : small ? 'fixed_small' : 'fixed_large',
    mean_type: fields.flag('predict_xstart', false) ? 'start_x' : fields.flag('predict_v', false) ? 'v' : 'epsilon',
    rescale_timesteps: fields.flag('rescale_timesteps', false),
  };
  // These concern training, or are chosen anew when sampling.
  fields.flag('use_kl', false);
  fields.flag('rescale_learned_sigmas', false);
  return args;
}

/** @throws CheckpointError if the file does not describe itself, or describes something this version cannot build */
export function readConfig({ metadata }: { readonly metadata: ReadonlyMap<string, string> }): ModelConfig {
  const text = metadata.get('config');
  if (text === undefined) {
    throw new CheckpointError(
      'this file does not describe its model: expected a JSON string "config" in the safetensors metadata, with kind, model and diffusion',
    );
  }
  let json: Json;
  try {
    json = JSON.parse(text) as Json;
  } catch {
    throw new CheckpointError('the "config" in the safetensors metadata is not JSON');
  }
  const kind = new Fields(json, 'config').choice('kind', ['unet', 'classifier', 'super_resolution']);
  const described: Described = {
    diffusion: json['diffusion'] === undefined ? null : diffusionArguments(json['diffusion']),
    classes: classNames(json['classes']),
    nullClass: new Fields(json, 'config').optionalWhole('null_class'),
  };
  const config: ModelConfig =
    kind === 'classifier'
      ? { ...described, kind, model: classifierArguments(json['model']) }
      : { ...described, kind, model: unetArguments(json['model']) };
  checkArchitecture(config);
  return config;
}

/** @throws CheckpointError if the widths of a model do not divide as its layers need them to */
export function checkArchitecture({ kind, model }: ModelArguments): void {
  const { model_channels, channel_mult, num_heads, num_head_channels: headChannels } = model;
  if (channel_mult.length === 0) throw new CheckpointError('model.channel_mult should name at least one level');
  const factor = 2 ** (channel_mult.length - 1);
  if (kind !== 'classifier' && model.image_size % factor !== 0) {
    throw new CheckpointError(
      `model.image_size should be a multiple of ${factor} for so many levels, found ${model.image_size}`,
    );
  }
  channel_mult.forEach((mult, level) => {
    const width = levelChannels(model, mult);
    const where = `level ${level} has ${width} channels (${mult} times ${model_channels})`;
    if (width === 0 || width % 32 !== 0) throw new CheckpointError(`${where}; its norms need a multiple of 32`);
    const last = level === channel_mult.length - 1;
    if (!last && !model.attention_resolutions.includes(2 ** level)) return;
    const upward = kind === 'classifier' || model.num_heads_upsample === -1 ? num_heads : model.num_heads_upsample;
    const parts = headChannels === -1 ? [num_heads, upward] : [headChannels];
    const wrong = parts.find((n) => width % n !== 0);
    if (wrong === undefined) return;
    const asked = headChannels === -1 ? `${wrong} heads` : `heads of ${headChannels}`;
    throw new CheckpointError(`${where}, which do not divide into ${asked}`);
  });
  if (kind === 'classifier' && model.pool === 'attention' && headChannels === -1)
    throw new CheckpointError('model.num_head_channels should be given for the pool "attention"');
}

function classNames(value: unknown): readonly string[] | null {
  if (value === undefined || value === null) return null;
  if (Array.isArray(value) && value.every((name) => typeof name === 'string')) return value;
  throw new CheckpointError('config.classes should be a list of names');
}

/** The way back from `readConfig`: the text that makes a file describe itself. */
export function writeConfig({ kind, model, diffusion, classes, nullClass }: ModelConfig): string {
  const process = diffusion && {
    steps: diffusion.steps,
    noise_schedule: diffusion.noise_schedule,
    learn_sigma: diffusion.var_type === 'learned_range',
    sigma_small: diffusion.var_type === 'fixed_small',
    predict_xstart: diffusion.mean_type === 'start_x',
    predict_v: diffusion.mean_type === 'v',
    rescale_timesteps: diffusion.rescale_timesteps,
  };
  // Two kinds of process have no flag; a file leaves them out, and asks for them again.
  const said = diffusion && diffusion.var_type !== 'learned' && diffusion.mean_type !== 'previous_x';
  return JSON.stringify({
    kind,
    model,
    ...(said ? { diffusion: process } : {}),
    ...(classes ? { classes } : {}),
    ...(nullClass === null ? {} : { null_class: nullClass }),
  });
}

/** The parameters a model of this configuration has, in the order of guided-diffusion's `state_dict`. */
export function modelParameters({ kind, model }: ModelArguments): Parameter[] {
  switch (kind) {
    case 'unet':
      return unet.parameters(model);
    case 'super_resolution':
      return superResolution.parameters(model);
    case 'classifier':
      return classifier.parameters(model);
  }
}

/** One way in which tensors differ from what a model expects. */
export interface Mismatch {
  readonly name: string;
  /** The shape that the model expects; null for a tensor it has no place for. */
  readonly expected: readonly number[] | null;
  /** The shape in the file; null for one that is missing. */
  readonly found: readonly number[] | null;
}

/** Missing and misshapen tensors in the model's order, then unexpected ones in the file's. */
export function mismatches(
  tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  expected: readonly Parameter[],
): Mismatch[] {
  const list: Mismatch[] = [];
  const known = new Set<string>();
  for (const { name, shape } of expected) {
    known.add(name);
    const found = tensors.get(name)?.shape ?? null;
    if (found === null || found.join() !== shape.join()) list.push({ name, expected: shape, found });
  }
  for (const [name, { shape }] of tensors) if (!known.has(name)) list.push({ name, expected: null, found: shape });
  return list;
}

/** A mismatch in words. */
export function describeMismatch({ name, expected, found }: Mismatch): string {
  if (found === null) return `${name} is missing, of shape [${expected!.join(', ')}]`;
  if (expected === null) return `${name} is unexpected, of shape [${found.join(', ')}]`;
  return `${name} should have shape [${expected.join(', ')}], found [${found.join(', ')}]`;
}

const MAX_SHOWN = 6;

/**
 * @param explain what may be said of a mismatch beside itself, or ""
 * @throws CheckpointError naming missing, unexpected and misshapen tensors
 */
export function checkTensors(
  { tensors }: { readonly tensors: ReadonlyMap<string, TensorInfo>; readonly metadata?: unknown },
  expected: readonly Parameter[],
  explain: (mismatch: Mismatch) => string = () => '',
): void {
  const wrong = mismatches(tensors, expected);
  // What is explained stands before what is not, so that no explanation is lost in a long list.
  const explained = wrong.map((mismatch) => ({ mismatch, why: explain(mismatch) }));
  const shown = [...explained.filter(({ why }) => why !== ''), ...explained.filter(({ why }) => why === '')];
  const complaints = shown.slice(0, MAX_SHOWN).map(({ mismatch, why }) => describeMismatch(mismatch) + why);
  if (wrong.length > MAX_SHOWN) complaints.push(`and ${wrong.length - MAX_SHOWN} more`);
  if (complaints.length > 0) {
    throw new CheckpointError(`the tensors do not fit the model that they are read for: ${complaints.join('; ')}`);
  }
  for (const { name } of expected) {
    const { dtype, scale } = tensors.get(name)!;
    if (!/^B?F/.test(dtype) && !(dtype === 'I8' && scale !== undefined))
      throw new CheckpointError(`${name} should hold floating-point values, found ${dtype}`);
  }
}
