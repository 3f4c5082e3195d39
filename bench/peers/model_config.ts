/** @file A case's network in the words of Pilotwave's configurations, which are guided-diffusion's. */
import type { ModelConfig } from '../../src/index.ts';
import type { NetworkCase } from './cases.ts';

export function configOf(c: NetworkCase): ModelConfig {
  const encoder = {
    image_size: c.size,
    in_channels: c.in,
    model_channels: c.base,
    num_res_blocks: c.blocks,
    attention_resolutions: c.attention.map((side) => c.size / side),
    channel_mult: c.mult,
    conv_resample: true,
    num_heads: 1,
    num_head_channels: c.headChannels,
    use_scale_shift_norm: true,
    resblock_updown: true,
    use_new_attention_order: true,
    rescale_residual: false,
  };
  const described = { diffusion: null, classes: null, nullClass: null };
  return c.op === 'unet'
    ? {
        ...described,
        kind: 'unet',
        model: { ...encoder, out_channels: c.out, num_classes: null, num_heads_upsample: -1 },
      }
    : { ...described, kind: 'classifier', model: { ...encoder, out_channels: c.classes, pool: 'attention' } };
}
