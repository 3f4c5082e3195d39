/** @file Two ways, side by side: the same noise and classes guided by a classifier, and without one. */
import type { Frame, History, ImageShape } from './history.ts';
import { Picture } from './picture.ts';
import { clamp, LIMITS } from './settings.ts';
import { byId, make, variable } from './shell/dom.ts';
import { milliseconds, probability, scaleText } from './shell/words.ts';

export type Way = 'classifier' | 'free';
export const WAYS: readonly Way[] = ['classifier', 'free'];

/** Images in a row. */
export const WAY_IMAGES = 5;

interface Row {
  readonly names: HTMLElement[];
  readonly pictures: Picture[];
  readonly bars: HTMLElement[];
  readonly values: HTMLElement[];
  readonly mean: HTMLElement;
  readonly time: HTMLElement;
  readonly scale: HTMLElement;
}

export class Ways {
  readonly #rows: Readonly<Record<Way, Row>>;
  readonly #scale: HTMLInputElement;

  /** @param onScale called with another scale for the classifier-free row */
  constructor(freeScale: number, onScale: (scale: number) => void) {
    this.#scale = make('input', {
      type: 'number',
      class: 'input tiny',
      id: 'free-scale',
      min: LIMITS.scale[0],
      max: LIMITS.scale[1],
      step: 0.5,
      inputmode: 'decimal',
      'aria-label': 'Scale of classifier-free guidance',
    });
    this.#scale.value = String(freeScale);
    let valid = freeScale;
    this.#scale.addEventListener('change', () => {
      const value = Number(this.#scale.value);
      if (this.#scale.value.trim() !== '' && Number.isFinite(value)) {
        valid = clamp(value, LIMITS.scale);
        onScale(valid);
      }
      this.#scale.value = String(valid);
    });
    const [classifier, free] = [this.#makeRow('classifier'), this.#makeRow('free')];
    byId('ways').replaceChildren(classifier.element, free.element);
    this.#rows = { classifier: classifier.row, free: free.row };
  }

  #makeRow(way: Way): { element: HTMLElement; row: Row } {
    const first = way === 'classifier';
    const mean = make('dd', {}, '–');
    const scale = make('dd', {}, first ? '–' : this.#scale);
    const time = make('dd', {}, '–');
    const head = make(
      'div',
      {},
      make('h3', {}, first ? 'Classifier' : 'Classifier-free'),
      make(
        'dl',
        {},
        make('dt', {}, 'mean ', variable('p')),
        mean,
        make('dt', {}, 'scale'),
        scale,
        make('dt', {}, 'a step'),
        time,
      ),
    );
    const row: Row = { names: [], pictures: [], bars: [], values: [], mean, time, scale };
    const list = make('ul');
    for (let i = 0; i < WAY_IMAGES; i++) {
      const name = make('span', { class: first ? 's' : 's again' });
      const picture = new Picture();
      const bar = make('i');
      const value = make('span', { class: 'p' }, '–');
      list.append(make('li', {}, name, picture.element, make('div', { class: 'pbar' }, bar), value));
      row.names.push(name);
      row.pictures.push(picture);
      row.bars.push(bar);
      row.values.push(value);
    }
    return { element: make('div', { class: `way ${way}` }, head, list), row };
  }

  /** Before a run: names and the noise that both rows begin with. */
  showStart(pixels: Uint8Array, shape: ImageShape, names: readonly string[], scale: number): void {
    for (const way of WAYS) {
      const row = this.#rows[way];
      row.pictures.forEach((picture, i) => {
        const item = picture.element.parentElement!;
        item.hidden = i >= names.length;
        row.names[i]!.textContent = names[i] ?? '';
        if (i < shape.n) picture.show(pixels, i, shape);
        picture.showHeat(null, 0, shape);
      });
      this.result(way, null, null);
      row.pictures[0]!.element.closest('ul')!.classList.add('waiting');
    }
    this.#rows.classifier.scale.textContent = scaleText(scale);
  }

  show(way: Way, { shape }: History, frame: Frame): void {
    this.#rows[way].pictures[0]!.element.closest('ul')!.classList.remove('waiting');
    this.#rows[way].pictures.slice(0, shape.n).forEach((picture, i) => {
      picture.show(frame.x0, i, shape);
    });
  }

  /** The classifier's probabilities of the asked classes, and the time of a step. */
  result(way: Way, values: readonly number[] | null, stepMs: number | null): void {
    const row = this.#rows[way];
    row.bars.forEach((bar, i) => {
      const value = values?.[i] ?? null;
      bar.style.width = `${100 * (value ?? 0)}%`;
      row.values[i]!.textContent = value === null ? '–' : probability(value);
    });
    const sum = values?.reduce((a, b) => a + b, 0) ?? 0;
    row.mean.textContent = values ? probability(sum / values.length) : '–';
    row.time.textContent = stepMs === null ? '–' : milliseconds(stepMs);
  }
}
