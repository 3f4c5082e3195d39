/**
 * @file What a run is made with, and how that stands in the page's address. Pure: needs no page.
 *
 * Two visitors with the same address get the same pictures, bit for bit, on the same adapter.
 */
import { spaceTimesteps } from '../src/diffusion/respacing.ts';

export const GUIDANCES = ['classifier', 'free', 'none'] as const;
export const SAMPLERS = ['ddpm', 'ddim', 'dpm', 'heun'] as const;
export const VIEWS = ['x0', 'xt'] as const;
export type GuidanceName = (typeof GUIDANCES)[number];
export type SamplerName = (typeof SAMPLERS)[number];
export type View = (typeof VIEWS)[number];

export const GUIDANCE_TITLES: Readonly<Record<GuidanceName, string>> = {
  classifier: 'Classifier',
  free: 'Classifier-free',
  none: 'No guidance',
};
export const SAMPLER_TITLES: Readonly<Record<SamplerName, string>> = {
  ddpm: 'DDPM',
  ddim: 'DDIM',
  dpm: 'DPM-Solver++',
  heun: 'Heun',
};

export interface Settings {
  /** Id of a shipped model. */
  readonly model: string;
  /** Numbers of the chosen classes, ascending; they repeat in turn up to the count. Null for all. */
  readonly classes: readonly number[] | null;
  readonly guidance: GuidanceName;
  readonly scale: number;
  /** Scale of the classifier-free half of "Two ways". */
  readonly freeScale: number;
  readonly sampler: SamplerName;
  readonly steps: number;
  readonly eta: number;
  readonly count: number;
  readonly seed: number;
  /** Generate repeats the seed instead of drawing a new one. */
  readonly keepSeed: boolean;
  readonly view: View;
  /** The gradient lies over every image. */
  readonly heat: boolean;
  /** Names of files that were opened in place of the shipped models: they cannot be linked to, but can be asked for. */
  readonly files: readonly string[];
}

export const DEFAULTS: Settings = {
  model: 'fashion-mnist',
  classes: null,
  guidance: 'classifier',
  scale: 4,
  freeScale: 3,
  sampler: 'ddim',
  steps: 25,
  eta: 0,
  count: 10,
  seed: 20261120,
  keepSeed: false,
  view: 'x0',
  heat: false,
  files: [],
};

export const LIMITS = { scale: [0, 16], steps: [1, 1000], eta: [0, 1], count: [1, 64] } as const;

export const SCALES = [0, 1, 2, 4, 8, 16] as const;

export const clamp = (value: number, [low, high]: readonly [number, number]): number =>
  Math.min(high, Math.max(low, value));

/** A seed as the noise generator takes it. */
export const validSeed = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;

/** "T-shirt/top" as an address can show it. */
export const slug = (name: string): string =>
  name
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-|-$/g, '');

const oneOf = <T extends string>(text: string | null, choices: readonly T[], fallback: T): T =>
  choices.includes(text as T) ? (text as T) : fallback;

function number(text: string | null, range: readonly [number, number], fallback: number, integer = false): number {
  const value = text === null || text.trim() === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) return fallback;
  return clamp(integer ? Math.round(value) : value, range);
}

/** Settings from an address. What it does not say, or says wrongly, has its default. */
export function readQuery(query: string, classNames: readonly string[]): Settings {
  const given = new URLSearchParams(query);
  const seed = Number(given.get('seed') ?? Number.NaN);
  return {
    model: given.get('model') ?? DEFAULTS.model,
    classes: readClasses(given.get('class'), classNames),
    guidance: oneOf(given.get('guidance'), GUIDANCES, DEFAULTS.guidance),
    scale: number(given.get('scale'), LIMITS.scale, DEFAULTS.scale),
    freeScale: number(given.get('freescale'), LIMITS.scale, DEFAULTS.freeScale),
    sampler: oneOf(given.get('sampler'), SAMPLERS, DEFAULTS.sampler),
    steps: number(given.get('steps'), LIMITS.steps, DEFAULTS.steps, true),
    eta: number(given.get('eta'), LIMITS.eta, DEFAULTS.eta),
    count: number(given.get('count'), LIMITS.count, DEFAULTS.count, true),
    seed: validSeed(seed) ? seed : DEFAULTS.seed,
    keepSeed: given.get('lock') === '1',
    view: oneOf(given.get('view'), VIEWS, DEFAULTS.view),
    heat: given.get('heat') === '1',
    files: given.getAll('file'),
  };
}

function readClasses(text: string | null, names: readonly string[]): readonly number[] | null {
  if (text === null || text === 'all') return null;
  const slugs = names.map(slug);
  const found = text
    .split(',')
    .map((part) => (/^\d+$/.test(part) ? Number(part) : slugs.indexOf(slug(part))))
    .filter((k) => k >= 0 && k < names.length);
  const distinct = [...new Set(found)].sort((a, b) => a - b);
  return distinct.length === 0 || distinct.length === names.length ? null : distinct;
}

/** The address's query: always whole, so that a link means the same when defaults change. */
export function writeQuery(settings: Settings, classNames: readonly string[]): string {
  const { classes, guidance, sampler } = settings;
  const parts: [string, string][] = [
    ['model', settings.model],
    ['class', classes === null ? 'all' : classes.map((k) => slug(classNames[k] ?? '') || String(k)).join(',')],
    ['guidance', guidance],
    ['scale', String(settings.scale)],
    ['sampler', sampler],
    ['steps', String(settings.steps)],
    ['eta', String(settings.eta)],
    ['count', String(settings.count)],
    ['seed', String(settings.seed)],
  ];
  if (settings.freeScale !== DEFAULTS.freeScale) parts.push(['freescale', String(settings.freeScale)]);
  if (settings.keepSeed) parts.push(['lock', '1']);
  if (settings.view !== DEFAULTS.view) parts.push(['view', settings.view]);
  if (settings.heat) parts.push(['heat', '1']);
  for (const name of settings.files) parts.push(['file', name]);
  // Commas may stand in a query as they are, and a link that is read by people should show them.
  return `?${parts.map(([key, value]) => `${key}=${encodeURIComponent(value).replace(/%2C/g, ',')}`).join('&')}`;
}

/** The class of each image. */
export function labelsOf({ classes, count }: Pick<Settings, 'classes' | 'count'>, classCount: number): number[] {
  const chosen = classes ?? Array.from({ length: classCount }, (_, k) => k);
  return Array.from({ length: count }, (_, i) => chosen[i % chosen.length]!);
}

/** The same timesteps as the original's samplers where it can take so many, else as evenly spaced as can be. */
export function respacingOf(sampler: SamplerName, steps: number, trained: number): string {
  if (sampler === 'ddpm' || steps >= trained) return String(Math.min(steps, trained));
  try {
    spaceTimesteps(trained, `ddim${steps}`);
    return `ddim${steps}`;
  } catch {
    return String(steps);
  }
}

/** Where changing it changes the images, not only how they are shown. */
export function samePictures(a: Settings, b: Settings): boolean {
  const key = (s: Settings) => {
    const scale = s.guidance === 'none' ? 0 : s.scale;
    const eta = s.sampler === 'ddim' ? s.eta : 0;
    return JSON.stringify([s.model, s.classes, s.guidance, scale, s.sampler, s.steps, eta, s.count, s.seed, s.files]);
  };
  return key(a) === key(b);
}
