/** @file The images of a run: a grid that keeps its place in every state. One image is always selected. */
import type { Frame, History, ImageShape } from './history.ts';
import { Picture } from './picture.ts';
import type { View } from './settings.ts';
import { byId, make } from './shell/dom.ts';
import { probability } from './shell/words.ts';

interface Tile {
  readonly button: HTMLButtonElement;
  readonly picture: Picture;
  readonly probability: HTMLElement;
}

/** Selected at first, where there are so many: a shirt, the class that guidance has most to do for. */
const FIRST = 6;

/** Columns for a number of images; on a phone at most five. */
export function columns(count: number): number {
  if (count <= 10) return 5;
  if (count <= 12) return 6;
  return count <= 32 ? 8 : 10;
}

export class Grid {
  readonly #list = byId('tiles');
  readonly #onSelect: (image: number) => void;
  #tiles: Tile[] = [];
  #names: readonly string[] = [];
  selected = FIRST;

  constructor(onSelect: (image: number) => void) {
    this.#onSelect = onSelect;
    this.#list.addEventListener('keydown', (event) => this.#move(event));
  }

  /** New images. @param names the class of each */
  build(names: readonly string[]): void {
    const same = names.length === this.#names.length;
    this.#names = names;
    if (!same) {
      this.#tiles = names.map((_, i) => this.#makeTile(i));
      this.#list.replaceChildren(...this.#tiles.map(({ button }) => make('li', {}, button)));
      this.#list.style.setProperty('--columns', String(columns(names.length)));
      this.#list.style.setProperty('--narrow', String(Math.min(5, columns(names.length))));
    }
    this.#tiles.forEach(({ button }, i) => {
      button.querySelector('.name')!.textContent = names[i]!;
    });
    this.select(this.selected < names.length ? this.selected : 0, false);
  }

  #makeTile(i: number): Tile {
    const picture = new Picture();
    const p = make('span', { class: 'p' }, '–');
    const caption = make('span', { class: 'cap' }, make('span', { class: 'name' }), p);
    const button = make('button', { type: 'button', class: 'tile' }, picture.element, caption);
    for (const event of ['pointerenter', 'focus', 'click']) button.addEventListener(event, () => this.select(i));
    return { button, picture, probability: p };
  }

  select(image: number, tell = true): void {
    const changed = image !== this.selected;
    this.selected = image;
    this.#tiles.forEach(({ button }, i) => {
      button.setAttribute('aria-pressed', String(i === image));
      button.tabIndex = i === image ? 0 : -1;
    });
    if (changed && tell) this.#onSelect(image);
  }

  /** The arrow keys move through the grid, which is one tab stop. */
  #move(event: KeyboardEvent): void {
    const row = getComputedStyle(this.#list).gridTemplateColumns.split(' ').length;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
    const target = by === undefined ? undefined : this.#tiles[this.selected + by];
    if (!target) return;
    event.preventDefault();
    target.button.focus();
  }

  /** What every image starts from. @param pixels NCHW bytes */
  showStart(pixels: Uint8Array, shape: ImageShape): void {
    this.#tiles.forEach(({ picture, probability: p }, i) => {
      picture.show(pixels, i, shape);
      picture.showHeat(null, i, shape);
      p.textContent = '–';
      this.#name(i, 'starting noise');
    });
  }

  show(history: History, frame: Frame, view: View): void {
    this.#tiles.forEach(({ picture, probability: p }, i) => {
      picture.show(frame[view], i, history.shape);
      picture.showHeat(frame.heat, i, history.shape);
      const probs = history.classProbs(frame.index, i, false);
      const value = probs ? Math.exp(probs[history.labels[i]!]!) : null;
      p.textContent = value === null ? '–' : probability(value);
      this.#name(i, value === null ? `step ${frame.index + 1}` : `probability ${probability(value)}`);
    });
  }

  #name(i: number, state: string): void {
    this.#tiles[i]!.button.setAttribute('aria-label', `Image ${i + 1}, ${this.#names[i]}, ${state}`);
  }
}
