/** @file What leaves the page: files with their settings in them, and the link. */
import { columns } from './grid.ts';
import type { Frame, History } from './history.ts';
import { shippedModel } from './models.ts';
import { filmGif, imagePng, offer, sheetPng } from './save.ts';
import { GUIDANCE_TITLES, SAMPLER_TITLES, type Settings, slug } from './settings.ts';
import { plural, scaleText } from './shell/words.ts';

/** The settings in words. */
export function settingsLine({ model, files, guidance, scale, sampler, steps, eta, seed }: Settings): string {
  const guided = `${GUIDANCE_TITLES[guidance].toLowerCase()} guidance, scale ${scaleText(scale)}`;
  const noise = sampler === 'ddim' && eta > 0 ? `, eta ${eta}` : '';
  return [
    files.length > 0 ? files.join(', ') : shippedModel(model).title,
    guidance === 'none' ? 'no guidance' : guided,
    `${SAMPLER_TITLES[sampler]}, ${plural(steps, 'step')}${noise}`,
    `seed ${seed}`,
  ].join('; ');
}

export interface Subject {
  readonly history: History;
  /** What is shown now. */
  readonly frame: Frame;
  readonly image: number;
  readonly settings: Settings;
  readonly classNames: readonly string[];
}

export async function takeAway(
  what: 'image' | 'sheet' | 'film',
  { history, frame, image, settings, classNames }: Subject,
): Promise<void> {
  const { view, seed } = settings;
  const names = history.labels.map((k) => classNames[k]!);
  const across = columns(history.shape.n);
  const text = (subject: string) => ({
    Software: 'Pilotwave',
    Description: subject,
    Parameters: `${settingsLine(settings)}; step ${frame.index + 1} of ${history.count}`,
    Source: location.href,
  });
  if (what === 'film') {
    offer(`pilotwave-seed-${seed}.gif`, 'image/gif', filmGif(history, view, across));
  } else if (what === 'sheet') {
    const line = settingsLine(settings);
    const made = await sheetPng(history, frame[view], names, across, line, text(names.join(', ')));
    offer(`pilotwave-seed-${seed}.png`, 'image/png', made);
  } else {
    const made = await imagePng(history, frame[view], image, text(`${names[image]}, image ${image + 1}`));
    offer(`pilotwave-${slug(names[image]!)}-${image + 1}-seed-${seed}.png`, 'image/png', made);
  }
}

/** Says on the button that it is done. @returns false if the browser does not allow copying */
export async function copyText(text: string, button: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    return false;
  }
  const words = button.querySelector('.txt');
  if (!words) return true;
  const before = words.textContent;
  words.textContent = 'Copied';
  setTimeout(() => {
    words.textContent = before;
  }, 1500);
  return true;
}
