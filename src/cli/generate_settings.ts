/**
 * @file The options of `generate`, and everything about them that can be checked before a device or a file is touched.
 */
import {
  adam,
  type GradientFilter,
  type GradientPlace,
  type Guidance,
  momentum,
  type Scale,
  type ScaleConvention,
  scaleWithin,
} from '../diffusion/guidance.ts';
import { seedWords } from '../diffusion/noise.ts';
import { SAMPLERS, type SamplerName } from '../diffusion/sample.ts';
import { OptionError } from '../runtime/errors.ts';
import {
  ADAPTER_OPTION,
  choiceOption,
  numberListOption,
  numberOption,
  type OptionTable,
  type readArguments,
} from './arguments.ts';

const SAMPLER_NAMES = Object.keys(SAMPLERS) as SamplerName[];
const GUIDANCES = ['classifier', 'free', 'none'] as const;
const PLACES = ['xt', 'mean', 'sample'] as const;
const FILTERS = ['none', 'momentum', 'adam'] as const;

export const OPTIONS = {
  class: {
    type: 'string',
    multiple: true,
    value: 'NAME|INDEX|all|null',
    help: 'classes, in turn up to the count; commas allowed (all)',
  },
  count: { type: 'string', value: 'N', help: 'number of pictures (one for each class named)' },
  guidance: { type: 'string', value: 'KIND', help: 'classifier, free or none', default: 'classifier' },
  conditional: { type: 'boolean', help: 'the U-Net sees the class too, not only the guidance' },
  scale: { type: 'string', value: 'S[,S…]', help: 'guidance scale, or one for each picture in turn (4; free 2)' },
  'scale-interval': { type: 'string', value: 'LOW,HIGH', help: 'timesteps between which the scale holds; 0 outside' },
  convention: { type: 'string', value: 's|w', help: 'of the classifier-free scale; s = 1 + w (s)' },
  'guidance-at': {
    type: 'string',
    value: 'PLACE',
    help: 'gradient at xt, at the mean (ddpm), or at the new sample, added to it without the variance (xt)',
  },
  filter: {
    type: 'string',
    value: 'NAME[:BETA[,BETA2]]',
    help: 'passes the gradient through momentum or adam (none)',
  },
  sampler: { type: 'string', value: 'NAME', help: SAMPLER_NAMES.join(', '), default: 'ddim' },
  steps: { type: 'string', value: 'N', help: 'denoising steps (25; 50 with ddpm, 15 with heun)' },
  respacing: { type: 'string', value: 'LIST', help: '"10,10,5", "ddim25" or "quad25"; in place of --steps' },
  eta: { type: 'string', value: 'E', help: 'noise of ddim, 0 for none (0)' },
  'no-clip': { type: 'boolean', help: 'leaves the prediction of x_0 as it is' },
  threshold: {
    type: 'string',
    value: 'Q',
    help: 'dynamic threshold: clamps x_0 to this quantile of its own magnitudes',
  },
  seed: { type: 'string', value: 'K', help: 'seed of all noise', default: '0' },
  noise: { type: 'string', value: 'FILE', help: 'safetensors file whose tensor x_T [N,C,H,W] is the start' },
  image: { type: 'string', value: 'FILE', help: 'PNG or safetensors: starts from it with noise, or see --inpaint' },
  strength: { type: 'string', value: 'S', help: 'share of the steps taken from --image: how much is made anew (0.6)' },
  inpaint: { type: 'string', value: 'MASK', help: 'PNG: keeps --image where the mask is black, makes the white part' },
  upsampler: { type: 'string', value: 'FILE', help: 'super-resolution checkpoint that enlarges the pictures' },
  'upsampler-steps': { type: 'string', value: 'N', help: 'denoising steps of the upsampler (as --steps)' },
  model: { type: 'string', value: 'FILE', help: 'U-Net checkpoint (the shipped one)' },
  classifier: { type: 'string', value: 'FILE', help: 'classifier checkpoint (the shipped one)' },
  flags: {
    type: 'string',
    anyText: true,
    value: 'FLAGS',
    help: 'what --model and --classifier are, in guided-diffusion’s flags, where they do not say',
  },
  'upsampler-flags': { type: 'string', anyText: true, value: 'FLAGS', help: 'the same for --upsampler' },
  out: { type: 'string', value: 'FILE.png', help: 'the contact sheet (a name made of the settings, in out/)' },
  raw: { type: 'string', value: 'FILE', help: 'writes samples and labels as a safetensors file too' },
  'check-finite': { type: 'boolean', help: 'names the first layer and step that yields NaN or infinity; slow' },
  adapter: ADAPTER_OPTION,
  json: { type: 'boolean', help: 'prints one JSON object with adapter, times, memory and files' },
} as const satisfies OptionTable;

export type Options = ReturnType<typeof readArguments<typeof OPTIONS>>['options'];

export interface Settings {
  readonly guidance: Guidance['kind'];
  readonly conditional: boolean;
  readonly convention: ScaleConvention;
  readonly at: GradientPlace;
  readonly filter: GradientFilter | null;
  /** One scale, or several that the pictures take in turn. */
  readonly scale: number | readonly number[];
  readonly interval: readonly [number, number] | null;
  readonly sampler: SamplerName;
  readonly respacing: string;
  readonly upsamplerRespacing: string;
  readonly eta: number;
  readonly clipDenoised: boolean;
  readonly dynamicThreshold: number | null;
  readonly strength: number | null;
  readonly seed: number;
}

/** A sheet of more pictures is no sheet. */
const MAX_COUNT = 10_000;

const DEFAULT_SCALE = { classifier: 4, free: 2, none: 0 } as const;
const DEFAULT_STEPS = { ddim: 25, ddpm: 50, dpm: 25, heun: 15 } as const;
/**
 * How `--steps` are spread. Heun's corrector looks at the noise level that a step leads to, and the last ones are short
 * only if timesteps are dense where there is little noise: with "ddim10" pictures stay grainy.
 */
const SPACING = { ddim: 'ddim', ddpm: '', dpm: 'ddim', heun: 'quad' } as const;
const DEFAULT_STRENGTH = 0.6;

/** @throws OptionError for a value that makes no sense, or options that do not go together */
export function readSettings(options: Options): Settings {
  const guidance = choiceOption('guidance', options.guidance, GUIDANCES);
  const sampler = choiceOption('sampler', options.sampler, SAMPLER_NAMES);
  const at = choiceOption('guidance-at', options['guidance-at'] ?? 'xt', PLACES);
  const seed = numberOption('seed', options.seed, { min: 0, whole: true });
  seedWords(seed);
  if (options.count !== undefined) numberOption('count', options.count, { min: 1, max: MAX_COUNT, whole: true });
  checkCombinations(options, guidance, sampler, at);

  const steps = (text: string | undefined, name: string) =>
    text === undefined ? DEFAULT_STEPS[sampler] : numberOption(name, text, { min: 1, whole: true });
  const spaced = (count: number) => `${SPACING[sampler]}${count}`;
  const number = (name: 'eta' | 'strength' | 'threshold', range: { min: number; max?: number }) => {
    const text = options[name];
    return text === undefined ? null : numberOption(name, text, range);
  };
  const strength = number('strength', { min: 0, max: 1 });
  const interval = options['scale-interval'];
  return {
    guidance,
    conditional: options.conditional,
    convention: choiceOption('convention', options.convention ?? 's', ['s', 'w']),
    at,
    filter: readFilter(options.filter ?? 'none'),
    scale: options.scale === undefined ? DEFAULT_SCALE[guidance] : readScale(options.scale),
    interval: interval === undefined ? null : readInterval(interval),
    sampler,
    respacing: options.respacing ?? spaced(steps(options.steps, 'steps')),
    upsamplerRespacing: spaced(steps(options['upsampler-steps'] ?? options.steps, 'upsampler-steps')),
    eta: number('eta', { min: 0 }) ?? 0,
    clipDenoised: !options['no-clip'],
    dynamicThreshold: number('threshold', { min: 0, max: 1 }),
    strength: options.image !== undefined && options.inpaint === undefined ? (strength ?? DEFAULT_STRENGTH) : strength,
    seed,
  };
}

function checkCombinations(
  options: Options,
  guidance: Guidance['kind'],
  sampler: SamplerName,
  at: GradientPlace,
): void {
  const refuse = (wrong: boolean, complaint: string) => {
    if (wrong) throw new OptionError(complaint);
  };
  const given = (name: keyof Options) => options[name] !== undefined && options[name] !== false;
  const forClassifier = (name: 'classifier' | 'guidance-at' | 'filter') =>
    refuse(
      given(name) && guidance !== 'classifier',
      `--${name} is for classifier guidance, the guidance is ${guidance}`,
    );
  refuse(given('eta') && sampler !== 'ddim', `--eta is an option of ddim; ${sampler} has none`);
  refuse(given('scale') && guidance === 'none', '--scale needs a guidance; it is none');
  refuse(given('scale-interval') && guidance === 'none', '--scale-interval needs a guidance; it is none');
  refuse(given('convention') && guidance !== 'free', '--convention is for classifier-free guidance (--guidance free)');
  refuse(
    given('conditional') && guidance === 'free',
    '--conditional is for classifier guidance or none; classifier-free guidance always sees the class',
  );
  forClassifier('classifier');
  forClassifier('guidance-at');
  forClassifier('filter');
  refuse(at === 'mean' && sampler !== 'ddpm', `--guidance-at mean needs --sampler ddpm; ${sampler} has no mean`);
  refuse(given('steps') && given('respacing'), '--steps and --respacing exclude each other');
  refuse(given('no-clip') && given('threshold'), '--no-clip and --threshold exclude each other');
  refuse(given('inpaint') && !given('image'), '--inpaint needs --image, the picture of which a part is kept');
  refuse(given('strength') && !given('image'), '--strength is for a start from a picture (--image)');
  refuse(given('image') && given('noise'), '--image and --noise exclude each other');
  refuse(given('upsampler-steps') && !given('upsampler'), '--upsampler-steps needs --upsampler');
}

function readScale(text: string): number | readonly number[] {
  const list = numberListOption('scale', text);
  return list.length === 1 ? list[0]! : list;
}

function readInterval(text: string): [number, number] {
  const [low, high, ...more] = numberListOption('scale-interval', text, { min: 0 });
  if (high === undefined || more.length > 0 || low! > high) {
    throw new OptionError(`--scale-interval should be two timesteps LOW,HIGH, found "${text}"`);
  }
  return [low!, high];
}

/** "momentum", "momentum:0.8", "adam", "adam:0.9,0.99". */
function readFilter(text: string): GradientFilter | null {
  const [word = '', rest] = text.split(':');
  const name = choiceOption('filter', word, FILTERS);
  const betas = rest === undefined ? [] : numberListOption('filter', rest, { min: 0, max: 0.999999 });
  if (betas.length > { none: 0, momentum: 1, adam: 2 }[name]) {
    throw new OptionError(`--filter ${name} takes no such list of betas, found "${text}"`);
  }
  const [first, second] = betas;
  if (name === 'momentum') return first === undefined ? momentum() : momentum(first);
  if (name === 'none') return null;
  return adam({ ...(first === undefined ? {} : { beta1: first }), ...(second === undefined ? {} : { beta2: second }) });
}

/** A file name that tells runs apart. */
export function sheetName(settings: Settings, { inpaint, upsampler }: Options): string {
  const { sampler, respacing, guidance, conditional, scale, interval, at, filter, convention, seed } = settings;
  const parts = [sampler, respacing.replace(/^(ddim|quad)/, '').replaceAll(',', '-'), guidance];
  if (conditional) parts.push('conditional');
  if (at !== 'xt') parts.push(`at-${at}`);
  if (filter) parts.push(filter.kind);
  if (guidance !== 'none') parts.push(`${convention === 'w' ? 'w' : 'scale'}${[scale].flat().join('-')}`);
  if (interval) parts.push(`from${interval.join('to')}`);
  if (settings.eta > 0) parts.push(`eta${settings.eta}`);
  if (settings.dynamicThreshold !== null) parts.push(`threshold${settings.dynamicThreshold}`);
  if (!settings.clipDenoised) parts.push('noclip');
  if (settings.strength !== null) parts.push(`strength${settings.strength}`);
  if (inpaint !== undefined) parts.push('inpaint');
  if (upsampler !== undefined) parts.push('upsampled');
  parts.push(`seed${seed}`);
  return parts.join('-');
}

/** The scale of `count` pictures, within the interval of timesteps if there is one. */
export function scaleOf({ scale, interval }: Settings, count: number): Scale {
  const own = typeof scale === 'number' ? scale : Array.from({ length: count }, (_, i) => scale[i % scale.length]!);
  if (!interval) return own;
  return scaleWithin(own, ...interval);
}
