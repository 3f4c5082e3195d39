/**
 * @file What is compared: the scale of guidance, and its form.
 */
import type { ClassifierModel } from '../checkpoints/model.ts';
import { adam, classifierGuidance, type Guidance, momentum, noGuidance } from '../diffusion/guidance.ts';

/**
 * - `none`: no guidance; scale 0.
 * - `sigma`: the variance times the gradient at x_t, on the mean (DDPM) or the score (DDIM): the original code.
 * - `mean`: the same with the gradient at the mean, as the paper derives it.
 * - `sample`: the gradient at the new x_{t-1}, added without the variance.
 * - `momentum`, `adam`: `sigma` with the gradient filtered as the optimiser of that name does.
 */
export const FORMS = ['none', 'sigma', 'mean', 'sample', 'momentum', 'adam'] as const;

export type Form = (typeof FORMS)[number];

export const FORM_NAMES: Readonly<Record<Form, string>> = {
  none: 'no guidance',
  sigma: 'with Σ, at x_t',
  mean: 'with Σ, at the mean',
  sample: 'without Σ',
  momentum: 'Σ, momentum 0.9',
  adam: 'Σ, Adam',
};

export type SamplerName = 'ddim' | 'ddpm';

export interface Setting {
  readonly sampler: SamplerName;
  /** The U-Net is told the class; otherwise it runs on its null class. */
  readonly conditional: boolean;
  readonly form: Form;
  readonly scale: number;
}

/** Whether anything tells the sampler the class: without it, what is measured by class means nothing. */
export const knowsClass = ({ conditional, form }: Setting): boolean => conditional || form !== 'none';

export const settingKey = ({ sampler, conditional, form, scale }: Setting): string =>
  [sampler, conditional ? 'class' : 'null', form, scale].join(' ');

/** @throws Error if the key is none that `settingKey` makes */
export function readSettingKey(key: string): Setting {
  const [sampler, sees, form, scale] = key.split(' ');
  const known = (sampler === 'ddim' || sampler === 'ddpm') && (sees === 'class' || sees === 'null');
  if (!known || !(FORMS as readonly string[]).includes(form ?? '') || !Number.isFinite(Number(scale))) {
    throw new Error(`"${key}" names no setting`);
  }
  return { sampler, conditional: sees === 'class', form: form as Form, scale: Number(scale) };
}

export const SCALES: readonly number[] = [0, 0.5, 1, 2, 4, 8, 16];

/** The scale's sweep; scale 0 is no guidance at all. */
export function scaleSweep(samplers: readonly SamplerName[], scales: readonly number[] = SCALES): Setting[] {
  return samplers.flatMap((sampler) =>
    [false, true].flatMap((conditional) =>
      scales.map((scale): Setting => ({ sampler, conditional, form: scale === 0 ? 'none' : 'sigma', scale })),
    ),
  );
}

/**
 * A usual, a strong and a weak scale of each form, and a weaker one where the weak one does most of it already. They are no
 * equals: without the variance, or with a gradient that is summed or normalised, one and the same number pushes
 * differently; what is equal is the agreement reached.
 */
export const FORM_SCALES: Readonly<Record<Exclude<Form, 'none'>, readonly number[]>> = {
  sigma: [4, 16, 1],
  mean: [4, 16, 1],
  sample: [2, 8, 0.5, 0.125],
  momentum: [0.4, 1.6, 0.1],
  adam: [0.1, 0.4, 0.03],
};

/**
 * The form's sweep: DDPM on the null class, where every form is defined and guidance has all the work to do. Usual scales
 * come first and weak ones last, so that a run that is stopped has measured what matters most.
 */
export function formSweep(): Setting[] {
  const guided = [0, 1, 2, 3].flatMap((place) =>
    FORMS.flatMap((form): Setting[] => {
      const scale = form === 'none' ? undefined : FORM_SCALES[form][place];
      return scale === undefined ? [] : [{ sampler: 'ddpm', conditional: false, form, scale }];
    }),
  );
  return [{ sampler: 'ddpm', conditional: false, form: 'none', scale: 0 }, ...guided];
}

export function guidanceOf({ form, conditional }: Setting, classifier: ClassifierModel): Guidance {
  switch (form) {
    case 'none':
      return noGuidance({ conditional });
    case 'sigma':
      return classifierGuidance(classifier, { conditional });
    case 'mean':
    case 'sample':
      return classifierGuidance(classifier, { conditional, at: form });
    case 'momentum':
      return classifierGuidance(classifier, { conditional, filter: momentum() });
    case 'adam':
      return classifierGuidance(classifier, { conditional, filter: adam() });
  }
}
