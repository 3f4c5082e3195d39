/** @file What is known of the selected image, and the two plots over the steps. */
import type { History, ImageShape } from './history.ts';
import { Picture } from './picture.ts';
import { decades, drawPlot } from './plot.ts';
import type { GuidanceName, View } from './settings.ts';
import { byId, make, variable } from './shell/dom.ts';
import { digits, probability } from './shell/words.ts';

export interface DiagnosticsState {
  readonly history: History | null;
  /** Steps on the axes. */
  readonly count: number;
  /** Steps done at the needle. */
  readonly shown: number;
  readonly image: number;
  readonly label: number;
  readonly view: View;
  readonly guidance: GuidanceName;
  readonly classNames: readonly string[];
  readonly start: { readonly pixels: Uint8Array; readonly shape: ImageShape } | null;
}

const LIKELIEST = 5;

export class Diagnostics {
  readonly #picture = new Picture();
  readonly #plotP = byId('plot-p');
  readonly #plotG = byId('plot-g');

  constructor() {
    byId('inspect-picture').replaceWith(this.#picture.element);
  }

  show(state: DiagnosticsState): void {
    this.#showImage(state);
    this.#showClasses(state);
    this.#plotProbability(state);
    this.#plotNorms(state);
  }

  #showImage({ history, shown, image, label, view, classNames, start }: DiagnosticsState): void {
    byId('inspect-name').textContent = `Image ${image + 1}, ${classNames[label] ?? ''}`;
    const frame = history?.frameAt(shown) ?? null;
    const time = byId('inspect-time');
    if (history && frame) {
      this.#picture.show(frame[view], image, history.shape);
      this.#picture.showHeat(frame.heat, image, history.shape);
      time.replaceChildren(variable('t'), ` = ${history.timesteps[frame.index] ?? '–'}`);
    } else if (start) {
      this.#picture.show(start.pixels, image, start.shape);
      this.#picture.showHeat(null, image, start.shape);
      time.textContent = 'starting noise';
    }
  }

  #showClasses({ history, shown, image, label, classNames }: DiagnosticsState): void {
    const probs = history?.classProbs(shown - 1, image, false) ?? null;
    const others = classNames
      .map((_, k) => k)
      .filter((k) => k !== label)
      .sort((a, b) => (probs ? probs[b]! - probs[a]! : a - b))
      .slice(0, LIKELIEST - 1);
    byId('tops').replaceChildren(
      ...[label, ...others].map((k) => {
        const p = probs ? Math.exp(probs[k]!) : null;
        const bar = make('i');
        bar.style.width = `${100 * (p ?? 0)}%`;
        return make(
          'li',
          { class: k === label ? 'asked' : null },
          make('span', { class: 'n' }, classNames[k] ?? String(k)),
          make('span', {}, p === null ? '–' : probability(p)),
          make('span', { class: 'bar' }, bar),
        );
      }),
    );
  }

  #plotProbability({ history, count, shown, image, label, classNames }: DiagnosticsState): void {
    const images = history?.shape.n ?? 0;
    const series = Array.from({ length: images }, (_, i) => history!.logProbSeries(i));
    const lowest = series.flat().reduce((low, v) => (v < low ? v : low), 0);
    const floor = lowest < -8 ? -16 : lowest < -4.4 ? -8 : -4;
    const ticks = [0, 1, 2, 3, 4].map((k): [number, string] => {
      const value = (floor * k) / 4;
      return [value, k === 0 ? '0' : `−${-value}`];
    });
    const at = known(series[image], shown);
    drawPlot(this.#plotP, {
      count,
      at: shown,
      range: [floor, 0],
      ticks,
      lines: [
        ...series.filter((_, i) => i !== image).map((values) => ({ values, kind: 'other' as const })),
        ...(history
          ? [{ values: series[image]!, kind: 'main' as const, label: (v: number) => `p = ${probability(Math.exp(v))}` }]
          : []),
      ],
      ...(classNames.length > 1
        ? { reference: { value: -Math.log(classNames.length), text: `chance, 1 in ${classNames.length}` } }
        : {}),
      sentence:
        at === null
          ? 'log p of the asked class over the steps; nothing is known yet'
          : `log p of ${classNames[label]} over the steps; image ${image + 1} is at ${at.toFixed(2)} after step ${shown}`,
    });
  }

  #plotNorms({ history, count, shown, image, guidance }: DiagnosticsState): void {
    const images = history?.shape.n ?? 0;
    const gradients = Array.from({ length: images }, (_, i) => history!.normSeries('gradient', i));
    const score = history?.normSeries('score', image) ?? [];
    const name = guidance === 'classifier' ? 's · gradient' : 'gradient';
    const [g, s] = [known(gradients[image], shown), known(score, shown)];
    drawPlot(this.#plotG, {
      count,
      at: shown,
      ...decades([...gradients, score]),
      log: true,
      lines: [
        ...gradients.filter((_, i) => i !== image).map((values) => ({ values, kind: 'other' as const })),
        { values: score, kind: 'second', label: (v) => `score ${digits(v)}` },
        { values: gradients[image] ?? [], kind: 'main', label: (v) => `${name} ${digits(v)}` },
      ],
      sentence:
        g === null || s === null
          ? 'norms of the gradient and of the score over the steps, logarithmic'
          : `norms over the steps, logarithmic; image ${image + 1}: ${name} ${digits(g)}, score ${digits(s)}`,
    });
  }
}

/** The last known value at or before a step. */
function known(values: readonly number[] | undefined, shown: number): number | null {
  if (!values) return null;
  for (let i = Math.min(shown, values.length) - 1; i >= 0; i--) {
    const value = values[i]!;
    if (!Number.isNaN(value)) return value;
  }
  return null;
}
