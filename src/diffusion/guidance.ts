/**
 * @file The ways to steer a sampler, as values. What they add to a step is in step.ts.
 *
 * A scale belongs to a run, not to a guidance, so that changing it needs no new plan.
 */
import type { ShapedModel } from '../checkpoints/model.ts';
import { OptionError } from '../runtime/errors.ts';

export type Guidance = NoGuidance | ClassifierGuidance | ClassifierFreeGuidance;

export interface NoGuidance {
  readonly kind: 'none';
  /** The U-Net is told the class. */
  readonly conditional: boolean;
}

export interface ClassifierGuidance {
  readonly kind: 'classifier';
  readonly classifier: ShapedModel<'classifier'>;
  /** The U-Net is told the class too. */
  readonly conditional: boolean;
  readonly at: GradientPlace;
  readonly filter: GradientFilter | null;
}

export interface ClassifierFreeGuidance {
  readonly kind: 'free';
  readonly convention: ScaleConvention;
}

/**
 * Where the gradient is taken, and where it acts.
 *
 * - `xt`: at x_t and its noise level, as the original code does; on the mean under DDPM (Dhariwal & Nichol 2021, algorithm
 *   1), on the score under the samplers of the ODE (algorithm 2).
 * - `mean`: at the mean of p(x_{t-1} | x_t) and the noise level of x_{t-1}, as the paper derives it; on the mean, so for
 *   DDPM alone.
 * - `sample`: at the new x_{t-1} and its noise level, added to it as s * grad log p, without the variance: the simple form
 *   of most tutorials.
 */
export type GradientPlace = 'xt' | 'mean' | 'sample';

/** An optimiser's filter for the gradient, in place of the plain s * grad. */
export type GradientFilter =
  | { readonly kind: 'momentum'; readonly beta: number }
  | { readonly kind: 'adam'; readonly beta1: number; readonly beta2: number; readonly eps: number };

/** `s`: eps_null + s * (eps_class - eps_null). `w`: (1 + w) * eps_class - w * eps_null, the paper's, so that s = 1 + w. */
export type ScaleConvention = 's' | 'w';

export interface ConditionalOption {
  /** The U-Net is told the class. Otherwise it runs on its null class, or has no classes. False by default. */
  readonly conditional?: boolean;
}

export interface ClassifierOptions extends ConditionalOption {
  /** `xt` by default. */
  readonly at?: GradientPlace;
  readonly filter?: GradientFilter | null;
}

/** The U-Net alone. */
export function noGuidance({ conditional = false }: ConditionalOption = {}): NoGuidance {
  return { kind: 'none', conditional };
}

/** Classifier guidance: s * grad log p(y | x) (Dhariwal & Nichol 2021, section 4). */
export function classifierGuidance(
  classifier: ShapedModel<'classifier'>,
  { conditional = false, at = 'xt', filter = null }: ClassifierOptions = {},
): ClassifierGuidance {
  for (const beta of filter === null ? [] : filter.kind === 'adam' ? [filter.beta1, filter.beta2] : [filter.beta]) {
    if (!(beta >= 0 && beta < 1)) throw new OptionError(`a filter's beta should be from 0 to below 1, found ${beta}`);
  }
  return { kind: 'classifier', classifier, conditional, at, filter };
}

/** The exponential average of all gradients so far, not corrected: m = beta * m + g. */
export const momentum = (beta = 0.9): GradientFilter => ({ kind: 'momentum', beta });

/** Adam's direction: each pixel moves by about s, whatever the size of its gradient. */
export const adam = ({ beta1 = 0.9, beta2 = 0.999, eps = 1e-8 } = {}): GradientFilter => ({
  kind: 'adam',
  beta1,
  beta2,
  eps,
});

/** Classifier-free guidance (Ho & Salimans 2022). */
export function classifierFreeGuidance({
  convention = 's',
}: {
  readonly convention?: ScaleConvention;
} = {}): ClassifierFreeGuidance {
  return { kind: 'free', convention };
}

/** A part of the plan that must be built anew when it changes. */
export function guidanceKey(guidance: Guidance): string {
  if (guidance.kind !== 'classifier') return guidance.kind;
  return `${guidance.kind} ${guidance.at} ${guidance.filter?.kind ?? ''}`;
}

/** Where a run is, for a scale that depends on it. */
export interface ScalePlace {
  /** 0 for the first step taken. */
  readonly index: number;
  readonly count: number;
  /** Timestep of the original process. */
  readonly timestep: number;
  /** sqrt((1 - abar) / abar): the noise level. */
  readonly sigma: number;
}

/** One scale for all pictures, one for each, or either as a function of the step. */
export type Scale = number | readonly number[] | ((place: ScalePlace) => number | readonly number[]);

/** `scale` while the timestep is within [low, high], 0 outside (Kynkäänniemi et al. 2024). */
export const scaleWithin =
  (scale: number | readonly number[], low: number, high: number): Scale =>
  ({ timestep }) =>
    timestep >= low && timestep <= high ? scale : 0;

/** The scale of each picture at a place, as the plan wants it. Pictures without a class have none. */
export function scalesAt(
  scale: Scale,
  place: ScalePlace,
  guidance: Guidance,
  labels: readonly (number | null)[],
  count: number,
): number[] {
  const value = typeof scale === 'function' ? scale(place) : scale;
  const list = typeof value === 'number' ? Array<number>(count).fill(value) : value;
  if (list.length !== count || !list.every(Number.isFinite)) {
    throw new OptionError(
      `scale should be a number, or one for each of ${count} pictures, found ${JSON.stringify(value)}`,
    );
  }
  const shift = guidance.kind === 'free' && guidance.convention === 'w' ? 1 : 0;
  return list.map((s, i) => (labels[i] === null ? 0 : s + shift));
}
