/**
 * @file Classes on the command line: their names, and how a user may write them.
 */
import type { Model } from '../checkpoints/model.ts';
import type { Guidance } from '../diffusion/guidance.ts';
import { OptionError } from '../runtime/errors.ts';

/** Names of the classes, or their numbers where the checkpoints have no names. */
export function classNames(unet: Model, guidance: Guidance): readonly string[] {
  if (!unet.isUNet()) throw new OptionError('--model needs a U-Net, this checkpoint holds another model');
  const { classes, model, nullClass } = unet.config;
  if (classes) return classes;
  if (guidance.kind === 'classifier') {
    const { config } = guidance.classifier;
    return config.classes ?? Array.from({ length: config.model.out_channels }, (_, i) => String(i));
  }
  return Array.from({ length: (model.num_classes ?? 0) - (nullClass === null ? 0 : 1) }, (_, i) => String(i));
}

const plain = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/** A class by its number, its name in any spelling, or a word of its name that no other class has. */
function findClass(text: string, names: readonly string[]): number {
  if (/^\d+$/.test(text)) {
    if (Number(text) < names.length) return Number(text);
    throw new OptionError(`--class should be from 0 to ${names.length - 1}, found ${text}`);
  }
  const wanted = plain(text);
  const exact = names.findIndex((name) => plain(name) === wanted);
  if (exact >= 0) return exact;
  const byWord = names.flatMap((name, i) => (name.split(/[ /]/).some((part) => plain(part) === wanted) ? [i] : []));
  if (byWord.length === 1 && wanted !== '') return byWord[0]!;
  throw new OptionError(`unknown class "${text}"; known are ${names.join(', ')}, all, null`);
}

/**
 * The class of each picture; null for none.
 *
 * @param asked what the user wrote, each perhaps a list with commas; "all" by default
 * @param count how many pictures; as many as classes were named by default
 */
export function readLabels(
  asked: readonly string[] | undefined,
  names: readonly string[],
  count: number | null,
): (number | null)[] {
  const words = (asked ?? ['all']).flatMap((text) => text.split(',')).map((text) => text.trim());
  const chosen = words.flatMap((text): (number | null)[] => {
    if (text === 'all') return names.length > 0 ? names.map((_, i) => i) : [null];
    return [text === 'null' ? null : findClass(text, names)];
  });
  return Array.from({ length: count ?? chosen.length }, (_, i) => chosen[i % chosen.length]!);
}
