/** @file Whether a classifier and a U-Net go together. Pure. */
import type { ModelConfig } from '../../src/index.ts';

type Of<Kind extends ModelConfig['kind']> = Extract<ModelConfig, { kind: Kind }>;

/** Why not, naming what each has; null if they fit. */
export function describeMisfit(unet: Of<'unet'>, classifier: Of<'classifier'>): string | null {
  const ours = unet.model;
  const theirs = classifier.model;
  const size = (m: { in_channels: number; image_size: number }) =>
    `${m.in_channels === 1 ? 'one channel' : `${m.in_channels} channels`} of ${m.image_size}×${m.image_size}`;
  if (theirs.in_channels !== ours.in_channels || theirs.image_size !== ours.image_size) {
    return `the classifier takes ${size(theirs)}, the U-Net makes ${size(ours)}`;
  }
  const known = ours.num_classes === null ? null : ours.num_classes - (unet.nullClass === null ? 0 : 1);
  if (known !== null && known !== theirs.out_channels) {
    return `the classifier knows ${theirs.out_channels} classes, the U-Net ${known}`;
  }
  return null;
}
