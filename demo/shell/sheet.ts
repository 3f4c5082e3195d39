/** @file On phones the settings are a sheet at the bottom. It takes the focus when it opens, and gives it back. */
import { byId } from './dom.ts';

export class Sheet {
  readonly #button = byId('sheet-button');

  constructor() {
    this.#button.addEventListener('click', () => this.set(true));
    byId('scrim').addEventListener('click', () => this.set(false));
  }

  get open(): boolean {
    return document.body.classList.contains('sheet-open');
  }

  set(open: boolean): void {
    if (open === this.open) return;
    document.body.classList.toggle('sheet-open', open);
    this.#button.setAttribute('aria-expanded', String(open));
    (open ? byId('model') : this.#button).focus({ preventScroll: true });
  }
}
