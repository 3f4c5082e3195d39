/** @file Arguments of a model in the words of guided-diffusion's command line: the way back from `flags.ts`. */
import type { ModelArguments } from './config.ts';

const truth = (value: unknown): string => (value ? 'True' : 'False');

/**
 * The flag that gives an argument the value it has in `config`.
 *
 * @param argument a keyword argument of the model, or a name of the process's flags
 * @returns for example "--num_channels 192"; where the scripts have no flag for it, the argument and its value
 */
export function wordsFor({ kind, model }: ModelArguments, argument: string): string {
  const classifier = kind === 'classifier';
  const value = (model as unknown as Record<string, unknown>)[argument];
  const size = kind === 'super_resolution' ? '--large_size' : '--image_size';
  switch (argument) {
    case 'image_size':
      return `${size} ${value}`;
    case 'model_channels':
      return `${classifier ? '--classifier_width' : '--num_channels'} ${value}`;
    case 'num_res_blocks':
      return `${classifier ? '--classifier_depth' : '--num_res_blocks'} ${value}`;
    case 'attention_resolutions': {
      const pixels = model.attention_resolutions.map((factor) => Math.floor(model.image_size / factor));
      return `${classifier ? '--classifier_attention_resolutions' : '--attention_resolutions'} ${pixels.join()}`;
    }
    case 'channel_mult': {
      // Fractions, and the levels of classifiers and super-resolution models, follow from the size alone.
      const free = kind === 'unet' && model.channel_mult.every((mult) => Number.isInteger(mult));
      return free ? `--channel_mult ${model.channel_mult.join()}` : `${size} ${model.image_size}`;
    }
    case 'num_classes':
      return `--class_cond ${truth(value !== null)}`;
    case 'out_channels':
      return classifier
        ? `out_channels ${value}`
        : `--learn_sigma ${truth(model.out_channels === 2 * model.in_channels)}`;
    case 'use_scale_shift_norm':
    case 'resblock_updown':
      return `--${classifier ? 'classifier_' : ''}${argument} ${truth(value)}`;
    case 'use_new_attention_order':
      return `--${argument} ${truth(value)}`;
    case 'pool':
      return `--classifier_pool ${value}`;
    case 'num_heads':
    case 'num_head_channels':
    case 'num_heads_upsample':
      return classifier ? `${argument} ${value}` : `--${argument} ${value}`;
    case 'noise_schedule':
    case 'diffusion_steps':
      return `--${argument}`;
    default:
      return `${argument} ${JSON.stringify(value)}`;
  }
}
