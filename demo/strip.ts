/** @file The scale strip: one image's noise at six scales, in one batch. */
import type { Frame, History, ImageShape } from './history.ts';
import { Picture } from './picture.ts';
import { SCALES } from './settings.ts';
import { byId, make } from './shell/dom.ts';
import { probability, scaleText } from './shell/words.ts';

export class Strip {
  readonly #tiles: {
    item: HTMLElement;
    button: HTMLButtonElement;
    picture: Picture;
    bar: HTMLElement;
    p: HTMLElement;
  }[];

  /** @param onChoose called with the scale of the tile that was chosen */
  constructor(onChoose: (scale: number) => void) {
    this.#tiles = SCALES.map((scale, i) => {
      const picture = new Picture();
      const bar = make('i');
      const p = make('span', {}, '–');
      const button = make(
        'button',
        { type: 'button', class: 'strip-tile' },
        make('span', { class: 's' }, i === 0 ? `scale ${scale}` : String(scale)),
        picture.element,
      );
      button.addEventListener('click', () => onChoose(scale));
      const item = make('li', {}, button, make('div', { class: 'pbar' }, bar), make('div', { class: 'p' }, p));
      return { item, button, picture, bar, p };
    });
    byId('strip').replaceChildren(...this.#tiles.map(({ item }) => item));
  }

  /** Which tile is the scale in use. */
  mark(scale: number): void {
    this.#tiles.forEach(({ item }, i) => {
      item.classList.toggle('now', SCALES[i] === scale);
    });
  }

  note(text: string): void {
    byId('strip-note').textContent = text;
  }

  /** All six begin with the same noise. */
  showStart(pixels: Uint8Array, shape: ImageShape, image: number): void {
    for (const { picture } of this.#tiles) {
      picture.show(pixels, image, shape);
      picture.showHeat(null, 0, shape);
    }
    this.probabilities(null);
    byId('strip').classList.add('waiting');
  }

  show({ shape }: History, frame: Frame): void {
    byId('strip').classList.remove('waiting');
    this.#tiles.forEach(({ picture }, i) => {
      picture.show(frame.x0, i, shape);
    });
  }

  /** @param values the classifier's probability of the asked class; null while it is not known */
  probabilities(values: readonly number[] | null): void {
    this.#tiles.forEach(({ bar, p, button }, i) => {
      const value = values?.[i] ?? null;
      bar.style.width = `${100 * (value ?? 0)}%`;
      p.textContent = value === null ? '–' : probability(value);
      const said = value === null ? '' : `, probability ${probability(value)}`;
      button.setAttribute('aria-label', `Scale ${scaleText(SCALES[i]!)}${said}: use this scale`);
    });
  }
}
