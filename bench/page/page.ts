/** @file The benchmark page: runs all or a part, shows results as they come, keeps them, and lays another run beside. */
import { download, shippedModel } from '../../demo/models.ts';
import { showAdvice } from '../../demo/no_webgpu.ts';
import { offer } from '../../demo/save.ts';
import { Session } from '../../demo/session.ts';
import { adapterWords, showNoAdapter } from '../../demo/shell/badge.ts';
import { all, byId, make } from '../../demo/shell/dom.ts';
import { icon } from '../../demo/shell/icons.ts';
import { notice } from '../../demo/shell/notice.ts';
import { bytes, digits, duration, milliseconds, plural } from '../../demo/shell/words.ts';
import { copyText } from '../../demo/take_away.ts';
import { type AdapterDescription, PilotwaveError } from '../../src/index.ts';
import { families, kernelCases, SHIPPED_MODELS } from '../kernels.ts';
import { MODEL_CASES } from '../models.ts';
import type { Peak } from '../peak.ts';
import { type BenchResult, parseResult, type Row, rowKey } from '../results.ts';
import { Collected, MODELS_FAMILY, runBench, type Selection, selectedCases } from '../run.ts';
import { drawTables } from './kernel_tables.ts';
import { decodeResult, encodeResult } from './link.ts';
import { drawModels } from './model_bars.ts';
import { drawRoofline } from './roofline.ts';

const ALL_FAMILIES = 'All families';
const ALL_SHAPES = 'All shapes';

export class BenchPage {
  readonly #family = byId<HTMLSelectElement>('family');
  readonly #shapes = byId<HTMLSelectElement>('shapes');
  readonly #run = byId<HTMLButtonElement>('run');
  #session: Session | null = null;
  /** What is shown: this device's, or a result from a link. */
  #result: BenchResult | null = null;
  #compared: { name: string; result: BenchResult } | null = null;
  #controller: AbortController | null = null;
  #started = 0;

  async start(): Promise<void> {
    const asked = new URLSearchParams(location.search);
    const cases = kernelCases();
    fill(this.#family, [ALL_FAMILIES, ...families(cases), MODELS_FAMILY], asked.get('family'));
    fill(this.#shapes, [ALL_SHAPES, ...new Set(cases.map(({ models }) => models))], asked.get('shapes'));
    this.#listen();
    this.#showRun();
    this.#draw();
    await this.#fromLink();
    try {
      const session = await Session.open();
      this.#session = session;
      this.#showDevice(session.runtime.adapter);
      if (session.runtime.adapter.software && !asked.has('shapes')) this.#shapes.value = SHIPPED_MODELS;
      this.#run.disabled = false;
      document.body.dataset['phase'] = 'ready';
      void session.device.lost.then((info) => {
        if (info.reason === 'destroyed') return;
        this.#controller?.abort();
        this.#session = null;
        this.#run.disabled = true;
        this.#say(
          'error',
          'The GPU device was lost',
          `(${info.message || 'no reason given'}). What was measured stays; reload to go on.`,
        );
      });
      this.#draw();
    } catch (error) {
      this.#withoutGpu(error);
    }
  }

  #withoutGpu(error: unknown): void {
    document.body.dataset['phase'] = 'no-webgpu';
    if (!(error instanceof PilotwaveError)) {
      this.#say('error', 'The page could not start:', String(error));
      return;
    }
    showNoAdapter();
    byId('adapter').textContent = this.#result ? byId('adapter').textContent : 'No WebGPU here';
    const host = make('div', { class: 'nogpu' });
    byId('notices').append(host);
    showAdvice(
      host,
      error.code === 'no-webgpu' ? 'this browser does not offer it' : 'this browser found no graphics processor',
      isSecureContext,
      null,
    );
  }

  get #selection(): Selection {
    return {
      family: this.#family.value === ALL_FAMILIES ? null : this.#family.value,
      models: this.#shapes.value === ALL_SHAPES ? null : this.#shapes.value,
    };
  }

  // ------------------------------------------------------------------------------------------------------ running

  async #begin(): Promise<void> {
    const session = this.#session;
    if (!session || this.#controller) return;
    const controller = new AbortController();
    this.#controller = controller;
    const { signal } = controller;
    document.body.dataset['phase'] = 'running';
    this.#started = performance.now();
    this.#showRun();
    const collected = new Collected();
    let done = 0;
    let total = 1;
    try {
      const selection = this.#selection;
      await this.#loadModels(session, signal);
      const pair = session.classifier ? { unet: session.unet, classifier: session.classifier } : null;
      const onLayer = (part: number, layers: number) => this.#progress(done + part / layers, total, 'layer by layer');
      for await (const event of runBench(session.runtime, pair, { selection, signal, onLayer })) {
        collected.take(event);
        if (event.kind === 'progress') {
          ({ done, total } = event);
          this.#progress(done, total, event.doing);
        } else {
          this.#result = collected.result(session.runtime, hostWords());
          this.#draw();
        }
      }
      this.#finish('done', `${plural(collected.rows.length, 'row')}, ${today()}`);
    } catch (error) {
      if (signal.aborted) this.#finish('stopped', `Stopped after ${done} of ${total} parts`);
      else {
        this.#finish('error', `Interrupted after ${done} of ${total} parts`);
        this.#say('error', 'It could not go on:', error instanceof Error ? error.message : String(error));
      }
    }
  }

  #finish(phase: string, words: string): void {
    this.#controller = null;
    this.#showRun();
    byId('progress').replaceChildren(make('div', {}, make('span', {}, words)));
    byId('announce').textContent = words;
    document.body.dataset['phase'] = phase;
    this.#draw();
  }

  async #loadModels(session: Session, signal: AbortSignal): Promise<void> {
    if (session.loaded) return;
    const { unet, classifier } = shippedModel('');
    const [a, b] = await Promise.all([unet, classifier].map((file) => download(file, signal, () => {})));
    session.load(a!, b!);
  }

  #progress(done: number, total: number, doing: string): void {
    const seconds = (performance.now() - this.#started) / 1000;
    const left = done > 0 && done < total ? `${duration((seconds / done) * (total - done))} left` : '';
    const bar = make('i');
    bar.style.width = `${(100 * done) / total}%`;
    byId('progress').replaceChildren(
      make(
        'div',
        {},
        make('span', { class: 'doing' }, doing || `${Math.floor(done)} of ${total}`),
        make('span', { class: 'meta' }, left),
      ),
      make('div', { class: 'meter' }, bar),
    );
    byId('announce').textContent = `Part ${Math.floor(done) + 1} of ${total}`;
  }

  #showRun(): void {
    const running = this.#controller !== null;
    this.#run.className = `btn ${running ? 'stop' : 'primary'}`;
    this.#run.replaceChildren(icon(running ? 'stop' : 'play'), running ? 'Stop' : 'Run');
    this.#family.disabled = running;
    this.#shapes.disabled = running;
  }

  // ------------------------------------------------------------------------------------------------------ showing

  #draw(): void {
    const others = this.#compared
      ? new Map(this.#compared.result.rows.map((row): [string, Row] => [rowKey(row), row]))
      : null;
    const rows = this.#result?.rows ?? [];
    const selected = selectedCases(this.#selection);
    // Results of shapes that are not selected now stay in view.
    const known = kernelCases().filter((c) =>
      rows.some((row) => row.family === c.family && row.shape === c.shape && row.models === c.models),
    );
    const cases = kernelCases().filter((c) =>
      [...selected, ...known].some((s) => s.family === c.family && s.shape === c.shape && s.models === c.models),
    );
    document.body.classList.toggle('vs-on', others !== null);
    drawTables(byId('tables'), { cases, rows, others });
    byId('key-them').hidden = others === null;
    drawRoofline(byId('roof'), { peak: this.#result?.peak ?? null, rows, others });
    drawModels(byId('models'), byId('tip'), this.#result?.models ?? [], MODEL_CASES);
    if (this.#result) this.#showPeak(this.#result.peak, this.#result.clock);
    for (const button of all<HTMLButtonElement>('[data-act="save"], [data-act="link"]')) {
      button.disabled = this.#result === null;
    }
  }

  #showPeak({ flops, bandwidth, launchMs, copyBytes }: Peak, clock: string): void {
    const big = (id: string, value: number, unit: string) => {
      const [scaled, prefix] = value >= 1e12 ? [value / 1e12, 'T'] : [value / 1e9, 'G'];
      byId(id).replaceChildren(`${digits(scaled)} `, make('small', {}, `${prefix}${unit}`));
    };
    big('peak-fma', flops, 'FLOP/s');
    big('peak-copy', bandwidth, 'B/s');
    const [value, unit] = milliseconds(launchMs).split(' ');
    byId('peak-launch').replaceChildren(`${value} `, make('small', {}, unit ?? ''));
    byId('peak-copy-note').textContent = `${copyBytes / 2 ** 20} MiB, both ways`;
    byId('adapter-sub').textContent = `${this.#result?.host ?? hostWords()}; timed with ${clock}`;
  }

  #showDevice(adapter: AdapterDescription): void {
    const { short, long } = adapterWords(adapter);
    const badge = byId('badge');
    badge.classList.toggle('warn', adapter.software);
    badge.replaceChildren(
      adapter.software ? icon('warn') : make('i', { class: 'dot' }),
      make(
        'span',
        {},
        adapter.software ? 'Software' : short,
        make('span', { class: 'name-long' }, adapter.software ? ' adapter' : ` ${long}`),
      ),
    );
    if (!this.#result) {
      byId('adapter').textContent = adapter.software ? `${short}, a software adapter` : `${short} ${long}`.trim();
      byId('adapter-sub').textContent = hostWords();
    }
    if (adapter.software) {
      this.#say(
        'warn',
        'These are figures of the CPU.',
        'This browser runs WebGPU in software. A result says so, wherever it is shown.',
      );
    }
    const { limits, features } = this.#session!.device;
    const yes = (name: string) => (features.has(name as GPUFeatureName) ? 'yes' : 'no');
    const spec: [string, string][] = [
      ['Timestamps', yes('timestamp-query')],
      ['shader-f16', yes('shader-f16')],
      ['Subgroups', yes('subgroups')],
      ['Storage binding', binary(limits.maxStorageBufferBindingSize)],
      ['Buffer', binary(limits.maxBufferSize)],
      ['Workgroup memory', binary(limits.maxComputeWorkgroupStorageSize)],
      ['Invocations', String(limits.maxComputeInvocationsPerWorkgroup)],
      ['Bindings a stage', String(limits.maxStorageBuffersPerShaderStage)],
    ];
    byId('spec').replaceChildren(
      ...spec.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))),
    );
  }

  #say(kind: 'plain' | 'warn' | 'error', title: string, text: string): void {
    byId('notices').append(notice(kind, title, text));
  }

  // ------------------------------------------------------------------------------------------------------- keeping

  async #fromLink(): Promise<void> {
    const packed = /^#r=(.+)$/.exec(location.hash)?.[1];
    if (!packed) return;
    try {
      this.#result = await decodeResult(packed);
    } catch (error) {
      this.#say('error', 'The link does not hold a result:', error instanceof Error ? error.message : String(error));
      return;
    }
    const { adapter, date } = this.#result;
    const { short, long } = adapterWords(adapter);
    byId('adapter').textContent = `${short} ${long}`.trim() + (adapter.software ? ', a software adapter' : '');
    this.#say('plain', 'A result from a link,', `measured on ${date}. Run measures this device instead.`);
    this.#draw();
  }

  async #act(name: string, button: HTMLElement): Promise<void> {
    if (name === 'compare') {
      byId('file').click();
      return;
    }
    if (!this.#result) return;
    if (name === 'save') {
      const text = `${JSON.stringify(this.#result, null, 1)}\n`;
      const device = adapterWords(this.#result.adapter).short.toLowerCase().replace(/\W+/g, '-');
      offer(
        `pilotwave-bench-${device}-${this.#result.date}.json`,
        'application/json',
        new TextEncoder().encode(text) as Uint8Array<ArrayBuffer>,
      );
      return;
    }
    const link = `${location.origin}${location.pathname}#r=${await encodeResult(this.#result)}`;
    if (await copyText(link, button)) return;
    history.replaceState(null, '', link);
    this.#say('plain', 'The browser did not allow copying.', 'The address of this page is now the link.');
  }

  async #compare(file: File): Promise<void> {
    try {
      this.#compared = { name: file.name, result: parseResult(await file.text()) };
    } catch (error) {
      this.#say('error', `${file.name} was not used:`, error instanceof Error ? error.message : String(error));
      return;
    }
    const { result, name } = this.#compared;
    const keys = new Set(result.rows.map(rowKey));
    const common = (this.#result?.rows ?? []).filter((row) => keys.has(rowKey(row))).length;
    const { short, long } = adapterWords(result.adapter);
    byId('vs-text').replaceChildren(
      'Beside ',
      make('b', {}, name),
      `, ${result.date}: ${`${short} ${long}`.trim()}, ${common} of ${plural(result.rows.length, 'row')} in common. Ratios below 1 are faster here.`,
    );
    byId('vs').hidden = false;
    // With nothing measured here yet, the file itself is what there is to see.
    this.#result ??= result;
    this.#draw();
  }

  #listen(): void {
    byId('runbar').addEventListener('submit', (event) => event.preventDefault());
    this.#run.addEventListener('click', () => {
      if (this.#controller) this.#controller.abort();
      else void this.#begin();
    });
    for (const select of [this.#family, this.#shapes]) {
      select.addEventListener('change', () => {
        const query = new URLSearchParams({ family: this.#family.value, shapes: this.#shapes.value });
        history.replaceState(null, '', `?${query}${location.hash}`);
        this.#draw();
      });
    }
    for (const button of all('[data-act]')) {
      button.addEventListener('click', () => void this.#act(button.dataset['act']!, button));
    }
    const file = byId<HTMLInputElement>('file');
    file.addEventListener('change', () => {
      if (file.files?.[0]) void this.#compare(file.files[0]);
      file.value = '';
    });
    byId('vs-close').addEventListener('click', () => {
      this.#compared = null;
      byId('vs').hidden = true;
      this.#draw();
    });
    byId('rules-link').addEventListener('click', () => {
      byId<HTMLDetailsElement>('rules').open = true;
    });
    addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.#controller?.abort();
    });
    addEventListener('resize', () => {
      drawRoofline(byId('roof'), { peak: this.#result?.peak ?? null, rows: this.#result?.rows ?? [], others: null });
    });
  }
}

function fill(select: HTMLSelectElement, names: Iterable<string>, chosen: string | null): void {
  select.replaceChildren(...[...names].map((name) => make('option', {}, name)));
  if (chosen && [...select.options].some(({ value }) => value === chosen)) select.value = chosen;
}

/** In powers of two, as limits are given. */
function binary(count: number): string {
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (count >= size) return `${Math.round((10 * count) / size) / 10} ${unit}`;
  }
  return bytes(count);
}

const today = (): string => new Date().toISOString().slice(0, 10);

/** The browser and its system, as far as it says. */
function hostWords(): string {
  const agent = navigator.userAgent;
  const browser = /(Edg|Firefox|Chrome|Version)\/(\d+)/.exec(agent);
  const name = { Edg: 'Edge', Version: 'Safari' }[browser?.[1] ?? ''] ?? browser?.[1] ?? 'Browser';
  const system = /Windows|Android|iPhone|iPad|Mac OS|Linux/.exec(agent)?.[0] ?? 'unknown system';
  return `${name} ${browser?.[2] ?? ''} on ${system}`;
}
