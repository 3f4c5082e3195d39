/**
 * @file ADM's super-resolution U-Net (SuperResModel of guided-diffusion): a U-Net that also sees a smaller picture.
 *
 *   out = unet([x_t, bilinear(low_res)], t)
 */
import type { Activation } from '../runtime/resources.ts';
import type { Builder, Parameter } from './builder.ts';
import { concatPadded } from './elementwise.ts';
import { bilinear } from './resample.ts';
import * as unet from './unet.ts';

export interface SuperResolutionInputs extends Omit<unet.UNetInputs, 'channels'> {
  /** [N, C, h, w], smaller than x. */
  readonly lowRes: Activation;
}

/** The U-Net inside: with twice the input channels. `in_channels` of the model counts those of one picture. */
const inner = (args: unet.UNetArguments): unet.UNetArguments => ({ ...args, in_channels: 2 * args.in_channels });

/** All parameters, in the order of guided-diffusion's `state_dict`. */
export const parameters = (args: unet.UNetArguments): Parameter[] => unet.parameters(inner(args));

/** The layers of all blocks, in the order in which they run. */
export const layersOf = (args: unet.UNetArguments) => unet.layersOf(inner(args));

/** @returns [N, out_channels, H, W], as the U-Net's */
export function forward(
  b: Builder,
  args: unet.UNetArguments,
  { x, lowRes, timesteps, labels }: SuperResolutionInputs,
  trace?: unet.Trace,
): Activation {
  const { tensor, map } = b.graph.within('low_res', () =>
    concatPadded(b.graph, [x, bilinear(b.graph, lowRes, x.shape.h, x.shape.w)]),
  );
  return unet.forward(b, inner(args), { x: tensor, channels: map, timesteps, labels }, trace);
}
