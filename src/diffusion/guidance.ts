/**
 * @file The ways to steer a sampler, as values. What they do to a step is in denoiser.ts (which gradients and passes are
 * planned) and in the samplers' shaders (where the gradient acts).
 */
import type { ClassifierModel } from '../checkpoints/model.ts';

export type Guidance =
  | { readonly kind: 'none'; readonly conditional: boolean }
  | { readonly kind: 'classifier'; readonly classifier: ClassifierModel; readonly conditional: boolean }
  | { readonly kind: 'free' };

export interface ConditionalOption {
  /** The U-Net is told the class too. Otherwise it runs on its null class, or has no classes. */
  readonly conditional?: boolean;
}

/** The U-Net alone. */
export function noGuidance({ conditional = false }: ConditionalOption = {}): Guidance {
  return { kind: 'none', conditional };
}

/**
 * Classifier guidance (Dhariwal & Nichol 2021, section 4): s * grad log p(y | x_t), on the mean under DDPM (algorithm 1),
 * on the score under DDIM (algorithm 2).
 */
export function classifierGuidance(
  classifier: ClassifierModel,
  { conditional = false }: ConditionalOption = {},
): Guidance {
  return { kind: 'classifier', classifier, conditional };
}

/** Classifier-free guidance (Ho & Salimans 2022): eps_null + s * (eps_class - eps_null), so that s = 1 is the class alone. */
export function classifierFreeGuidance(): Guidance {
  return { kind: 'free' };
}
