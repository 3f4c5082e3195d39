/** @file The form with the settings: shows them, and says when somebody changes them. */
import {
  clamp,
  GUIDANCE_TITLES,
  type GuidanceName,
  LIMITS,
  SAMPLER_TITLES,
  type SamplerName,
  SCALES,
  type Settings,
  validSeed,
} from './settings.ts';
import { all, byId, make } from './shell/dom.ts';
import { scaleText } from './shell/words.ts';

export interface FormChoices {
  /** Ids and titles of the models. */
  readonly models: readonly { readonly id: string; readonly title: string }[];
  readonly classes: readonly string[];
  readonly maxCount: number;
  /** Why a guidance cannot be used, or null. */
  whyNot(guidance: GuidanceName): string | null;
}

/** The slider's position is the square root of the scale, so that 0, 1, 2, 4, 8, 16 lie well apart. */
const positionOf = (scale: number): number => Math.round(Math.sqrt(scale) * 100);

/** Steps of 0.1 below 4 and of 0.5 from there on. */
const rounded = (scale: number): number => (scale < 4 ? Math.round(scale * 10) / 10 : Math.round(scale * 2) / 2);

const scaleAt = (position: number): number => rounded((position / 100) ** 2);

export class SettingsForm {
  readonly #form = byId<HTMLFormElement>('rail');
  readonly #model = byId<HTMLSelectElement>('model');
  readonly #chips = byId('chips');
  readonly #scale = byId<HTMLInputElement>('scale');
  readonly #seed = byId<HTMLInputElement>('seed');
  readonly #lock = byId('lock');
  readonly #changed: (settings: Settings) => void;
  #settings: Settings;
  #classCount = 0;

  constructor(settings: Settings, choices: FormChoices, changed: (settings: Settings) => void) {
    this.#settings = settings;
    this.#changed = changed;
    const marks = SCALES.map((value) => {
      const mark = make('span', { class: 'mark' }, make('b', {}, String(value)));
      mark.style.left = `${positionOf(value) / 4}%`;
      return mark;
    });
    this.#scale.before(...marks);
    this.offer(choices);
    this.#listen();
  }

  /** Another model: other classes, other guidance. */
  offer({ models, classes, maxCount, whyNot }: FormChoices): void {
    this.#classCount = classes.length;
    this.#model.replaceChildren(...models.map(({ id, title }) => make('option', { value: id }, title)));
    this.#chips.replaceChildren(
      ...classes.map((name, k) =>
        make('label', {}, make('input', { type: 'checkbox', name: 'class', value: k }), make('span', {}, name)),
      ),
    );
    for (const radio of this.#radios('guidance')) {
      const reason = whyNot(radio.value as GuidanceName);
      radio.disabled = reason !== null;
      const label = radio.parentElement!;
      label.classList.toggle('unavailable', reason !== null);
      label.title = reason ? `Not available: ${reason}` : '';
    }
    byId<HTMLInputElement>('count').max = String(maxCount);
    this.show(this.#settings);
  }

  get settings(): Settings {
    return this.#settings;
  }

  show(settings: Settings): void {
    this.#settings = settings;
    this.#model.value = settings.model;
    for (const box of this.#boxes()) {
      box.checked = settings.classes === null || settings.classes.includes(Number(box.value));
    }
    for (const [name, value] of [
      ['guidance', settings.guidance],
      ['sampler', settings.sampler],
    ] as const) {
      for (const radio of this.#radios(name)) radio.checked = radio.value === value;
    }
    this.#scale.value = String(positionOf(settings.scale));
    this.#showScale(settings.scale);
    this.#toggle('scale-field', settings.guidance !== 'none');
    this.#toggle('eta-field', settings.sampler === 'ddim');
    for (const name of ['steps', 'eta', 'count'] as const) {
      byId<HTMLInputElement>(name).value = String(settings[name]);
    }
    this.#seed.value = String(settings.seed);
    this.#lock.setAttribute('aria-pressed', String(settings.keepSeed));
    byId('sum-1').textContent = `${this.#classSummary()} · ${
      settings.guidance === 'none' ? 'no guidance' : `scale ${scaleText(settings.scale)}`
    }`;
    byId('sum-2').textContent =
      `${GUIDANCE_TITLES[settings.guidance]} · ${SAMPLER_TITLES[settings.sampler]} ${settings.steps} · seed ${settings.seed}`;
  }

  /** Without a GPU the form shows how the recorded images were made. */
  disable(): void {
    this.#form.classList.add('off');
    for (const control of all<HTMLInputElement>('input, select, button', this.#form)) control.disabled = true;
  }

  #classSummary(): string {
    const { classes } = this.#settings;
    if (classes === null) return 'All classes';
    const names = all('label', this.#chips).map((label) => label.textContent ?? '');
    return classes.length > 2 ? `${classes.length} classes` : classes.map((k) => names[k]).join(', ');
  }

  #toggle(id: string, on: boolean): void {
    const field = byId(id);
    field.classList.toggle('off', !on);
    for (const input of all<HTMLInputElement>('input', field)) input.disabled = !on;
  }

  #showScale(scale: number): void {
    byId('scale-out').textContent = scaleText(scale);
    this.#scale.setAttribute('aria-valuetext', scaleText(scale));
    byId('scale-fill').style.width = `${positionOf(scale) / 4}%`;
  }

  #boxes = (): HTMLInputElement[] => all<HTMLInputElement>('input', this.#chips);
  #radios = (name: string): HTMLInputElement[] => all<HTMLInputElement>(`input[name="${name}"]`, this.#form);

  #change(part: Partial<Settings>): void {
    this.show({ ...this.#settings, ...part });
    this.#changed(this.#settings);
  }

  #listen(): void {
    this.#form.addEventListener('submit', (event) => event.preventDefault());
    this.#model.addEventListener('change', () => this.#change({ model: this.#model.value, classes: null, files: [] }));
    this.#chips.addEventListener('change', (event) =>
      this.#chooseClass(Number((event.target as HTMLInputElement).value)),
    );
    byId('all').addEventListener('click', () => this.#change({ classes: null }));
    for (const radio of this.#radios('guidance')) {
      radio.addEventListener('change', () => this.#change({ guidance: radio.value as GuidanceName }));
    }
    for (const radio of this.#radios('sampler')) {
      radio.addEventListener('change', () => this.#change({ sampler: radio.value as SamplerName }));
    }
    this.#scale.addEventListener('input', () => this.#showScale(scaleAt(Number(this.#scale.value))));
    this.#scale.addEventListener('change', () => this.#change({ scale: scaleAt(Number(this.#scale.value)) }));
    this.#scale.addEventListener('keydown', (event) => {
      const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      const { scale } = this.#settings;
      const step = scale > 4 || (scale === 4 && direction > 0) ? 0.5 : 0.1;
      this.#change({ scale: rounded(clamp(scale + direction * step, LIMITS.scale)) });
    });
    for (const name of ['steps', 'eta', 'count'] as const) {
      const input = byId<HTMLInputElement>(name);
      input.addEventListener('change', () => {
        const value = Number(input.value);
        const limits = [LIMITS[name][0], name === 'count' ? Number(input.max) : LIMITS[name][1]] as const;
        if (input.value.trim() === '' || !Number.isFinite(value)) {
          this.show(this.#settings);
          return;
        }
        this.#change({ [name]: clamp(name === 'eta' ? value : Math.round(value), limits) });
      });
    }
    this.#seed.addEventListener('change', () => {
      const value = Number(this.#seed.value.trim() || Number.NaN);
      if (!validSeed(value)) {
        this.show(this.#settings);
        return;
      }
      this.#change({ seed: value });
    });
    byId('dice').addEventListener('click', () => this.#change({ seed: randomSeed() }));
    this.#lock.addEventListener('click', () => this.#change({ keepSeed: !this.#settings.keepSeed }));
  }

  /** Out of all classes a click takes one; after that it adds and removes. The last one stays. */
  #chooseClass(k: number): void {
    const { classes } = this.#settings;
    if (classes === null && this.#classCount > 1) {
      this.#change({ classes: [k] });
      return;
    }
    const chosen = new Set(classes ?? [k]);
    if (!chosen.delete(k)) chosen.add(k);
    if (chosen.size === 0) {
      this.show(this.#settings);
      return;
    }
    const sorted = [...chosen].sort((a, b) => a - b);
    this.#change({ classes: sorted.length === this.#classCount ? null : sorted });
  }
}

/** Eight digits: easy to read out. */
export const randomSeed = (): number => crypto.getRandomValues(new Uint32Array(1))[0]! % 1e8;
