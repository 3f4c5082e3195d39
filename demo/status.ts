/** @file The status line with its ruler: what is going on, how far it is, how long it will take. */
import { byId, make } from './shell/dom.ts';

/** More steps than this are drawn as one bar. */
const SEGMENTS = 100;

export class Status {
  readonly #phase = byId('phase');
  readonly #what = byId('what');
  readonly #left = byId('left');
  readonly #ruler = byId('ruler');
  readonly #meter = byId('meter');
  readonly #announce = byId('announce');
  readonly #scrub: HTMLInputElement;
  #segments: HTMLElement[] = [];
  #count = 0;
  #said = '';

  /** @param onScrub called with how many steps are to be looked at */
  constructor(onScrub: (done: number) => void) {
    this.#scrub = make('input', { type: 'range', min: 1, 'aria-label': 'Step shown' });
    this.#scrub.addEventListener('input', () => onScrub(Number(this.#scrub.value)));
  }

  say(phase: string, what = '', left = ''): void {
    if (this.#phase.textContent !== phase) this.#phase.textContent = phase;
    this.#what.textContent = what;
    this.#left.textContent = left;
  }

  /** For those who listen: a change of state, not every step. */
  announce(text: string): void {
    if (text === this.#said) return;
    this.#said = text;
    this.#announce.textContent = text;
  }

  facts(...facts: (string | Node)[]): void {
    byId('facts').replaceChildren(...facts.map((fact, i) => make('span', { class: i > 1 ? 'opt' : null }, fact)));
  }

  /** A plain bar, for what is not counted in steps. */
  bar(share: number): void {
    this.#ruler.hidden = true;
    this.#meter.hidden = false;
    (this.#meter.firstElementChild as HTMLElement).style.width = `${Math.round(share * 1000) / 10}%`;
  }

  none(): void {
    this.#ruler.hidden = true;
    this.#meter.hidden = true;
  }

  /** The steps. @param shown where the needle is; @param scrubs how far it may be dragged, 0 while running */
  steps(count: number, shown: number, scrubs: number): void {
    this.#meter.hidden = true;
    this.#ruler.hidden = false;
    if (count !== this.#count || this.#segments.length === 0) {
      this.#count = count;
      const length = count > SEGMENTS ? 1 : count;
      this.#segments = Array.from({ length }, () => make('i'));
      this.#ruler.replaceChildren(...this.#segments, this.#scrub);
      this.#ruler.classList.toggle('plain', count > SEGMENTS);
    }
    if (count > SEGMENTS) {
      this.#segments[0]!.style.setProperty('--done', `${(100 * shown) / count}%`);
    } else {
      this.#segments.forEach((segment, k) => {
        const name = k + 1 < shown ? 'done' : k + 1 === shown ? 'now' : '';
        if (segment.className !== name) segment.className = name;
      });
    }
    this.#scrub.hidden = scrubs === 0;
    this.#scrub.max = String(count);
    this.#scrub.value = String(shown);
    this.#scrub.setAttribute('aria-valuetext', `step ${shown} of ${count}`);
  }
}
