/**
 * @file The generation page: what it is doing, and what follows from a press of a button.
 *
 * One thing at a time uses the GPU: the main run, the strip, or the two ways. Whatever is asked for later comes first;
 * a run that was stopped keeps its place on the GPU and can go on.
 */

import { buildModel } from '../src/checkpoints/model.ts';
import { STREAM } from '../src/diffusion/noise.ts';
import { gaussianNoise, imageBytes, type Model, PilotwaveError } from '../src/index.ts';
import { CheckpointsPanel, type ModelFile } from './checkpoints_panel.ts';
import { Diagnostics } from './diagnostics.ts';
import { describeAssumptions, describeModel, type NamedFile, type Opened, openCheckpoint } from './files/open.ts';
import { GpuWork, type Work } from './gpu_work.ts';
import { Grid } from './grid.ts';
import type { History, ImageShape } from './history.ts';
import { drawLoading, ModelFiles, type Received, shareOf } from './loading.ts';
import { SHIPPED, shippedModel } from './models.ts';
import { showAdvice } from './no_webgpu.ts';
import { loadRecording } from './recorded.ts';
import { Run, type RunOptions } from './run.ts';
import { Session } from './session.ts';
import {
  GUIDANCE_TITLES,
  type GuidanceName,
  labelsOf,
  readQuery,
  SAMPLER_TITLES,
  SCALES,
  type Settings,
  samePictures,
  type View,
  writeQuery,
} from './settings.ts';
import { randomSeed, SettingsForm } from './settings_form.ts';
import { adapterWords, showBadge, showNoAdapter } from './shell/badge.ts';
import { all, byId, make, variable } from './shell/dom.ts';
import { icon } from './shell/icons.ts';
import { notice } from './shell/notice.ts';
import { Sheet } from './shell/sheet.ts';
import { bytes, duration, milliseconds, plural, scaleText } from './shell/words.ts';
import { Status } from './status.ts';
import { Strip } from './strip.ts';
import { copyText, takeAway } from './take_away.ts';
import { Plane } from './two_dimensions/panel.ts';
import { WAY_IMAGES, WAYS, Ways } from './ways.ts';

export type Phase = 'loading' | 'compiling' | 'sampling' | 'stopped' | 'done' | 'error' | 'no-webgpu';

const WORK_TITLES = { images: 'Sampling', strip: 'Scale strip', ways: 'Two ways' } as const;

/** Changes that follow each other within this time make one restart. */
const SETTLE_MS = 250;

/** The starting noise is shown softened, or most of it would be clipped to black and white. */
const SHOWN_NOISE = 0.55;

/** With reduced motion, previews at most this often. */
const CALM_MS = 500;

export class App {
  readonly #status = new Status((done) => this.#scrub(done));
  readonly #grid = new Grid(() => this.#draw());
  readonly #diagnostics = new Diagnostics();
  readonly #sheet = new Sheet();
  readonly #strip: Strip;
  readonly #ways: Ways;
  readonly #form: SettingsForm;
  readonly #checkpoints: CheckpointsPanel;
  #settings: Settings;
  #session: Session | null = null;
  #classNames: readonly string[];
  #shape: ImageShape;
  #phase: Phase = 'loading';
  #run: Run | null = null;
  /** A recorded run, where there is no GPU. */
  #recorded: History | null = null;
  readonly #gpu = new GpuWork(
    () => this.#showButtons(),
    (error, signal) => this.#fail(error, signal),
  );
  #loading = new AbortController();
  /** Steps looked at; null to follow the run. */
  #scrubbed: number | null = null;
  #startPixels = new Uint8Array(0);
  #settle = 0;
  #drawing = 0;
  #drawn = 0;
  #startedAt = 0;
  #seconds = 0;
  /** The image that the strip shows; -1 before it was run. */
  #stripImage = -1;
  #madeWith = { strip: '', ways: '' };
  readonly #models = new ModelFiles();
  #files: { unet: ModelFile; classifier: ModelFile | null } | null = null;
  #opened: { unet: Opened | null; classifier: Opened | null } = { unet: null, classifier: null };

  constructor() {
    const model = shippedModel(new URLSearchParams(location.search).get('model') ?? '');
    this.#classNames = model.classes;
    this.#settings = { ...readQuery(location.search, model.classes), model: model.id };
    this.#shape = { n: this.#settings.count, ...model.shape };
    this.#form = new SettingsForm(
      this.#settings,
      { models: SHIPPED, classes: model.classes, maxCount: 64, whyNot: () => null },
      (settings) => this.#changed(settings),
    );
    this.#strip = new Strip((scale) => this.#changed({ ...this.#settings, scale }, true));
    this.#ways = new Ways(this.#settings.freeScale, (freeScale) => this.#changed({ ...this.#settings, freeScale }));
    this.#checkpoints = new CheckpointsPanel((files) => void this.#open(files));
    this.#listen();
    this.#showStart();
    this.#showTools();
    // The plane needs no device; it is drawn when there is time.
    setTimeout(() => new Plane(byId('plane')), 0);
  }

  async start(): Promise<void> {
    const asked = this.#settings.files;
    if (asked.length > 0) {
      this.#notify(
        notice(
          'plain',
          'This link was made with other files:',
          `${asked.join(', ')}. Drop them on the page to get the same images; until then the shipped models are used.`,
        ),
      );
      this.#settings = { ...this.#settings, files: [] };
    }
    await this.#connect();
  }

  /** Device, models, first run. */
  async #connect(): Promise<void> {
    this.#setPhase('loading');
    this.#loading = new AbortController();
    try {
      // The models are fetched while the device is asked for.
      const model = shippedModel(this.#settings.model);
      const files = this.#models.fetch(model, this.#loading.signal, (state) => this.#reportLoading(state));
      files.catch(() => {});
      if (!this.#session) await this.#openSession();
      const [unet, classifier] = await files;
      if (this.#opened.unet) this.#useOpened(this.#opened.unet);
      else this.#session!.load(unet, classifier);
      if (this.#opened.classifier) this.#useOpened(this.#opened.classifier);
      this.#afterModels();
      await this.#generate();
    } catch (error) {
      this.#fail(error, this.#loading.signal);
    }
  }

  async #openSession(): Promise<void> {
    const session = await Session.open();
    this.#session = session;
    showBadge(session.runtime.adapter, null);
    if (session.runtime.adapter.software) this.#warnSoftware();
    void session.device.lost.then((info) => {
      if (info.reason === 'destroyed' || this.#session !== session) return;
      this.#loseDevice(info.message || 'the driver gave no reason');
    });
  }

  #warnSoftware(): void {
    const { short } = adapterWords(this.#session!.runtime.adapter);
    const lighter = () => this.#changed({ ...this.#settings, count: 4, steps: 10 }, true);
    this.#notify(
      notice(
        'warn',
        'This browser runs WebGPU on the CPU',
        `(${short}), at a small part of a GPU’s speed. Turn on graphics acceleration in its settings, or ask for less.`,
        [{ title: '4 images, 10 steps', act: lighter }],
      ),
    );
  }

  #loseDevice(reason: string): void {
    this.#gpu.drop();
    this.#session = null;
    const at = this.#run ? `The images are kept as of step ${this.#run.history.done} of ${this.#run.count}. ` : '';
    this.#setPhase('error');
    this.#notify(
      notice(
        'error',
        'The GPU device was lost',
        `(${reason}). ${at}Generate asks for a new device and begins again from the same seed.`,
      ),
    );
  }

  #reportLoading(state: Received): void {
    if (this.#phase !== 'loading') return;
    const { done, total } = shareOf(state);
    this.#status.say('Loading the model', `${bytes(done)} of ${bytes(total)}`);
    this.#status.bar(done / total);
    this.#status.facts('Then the kernels are compiled, and sampling begins');
    drawLoading(byId('fill'), state);
  }

  /** The form, the grid and the table follow the models in use. */
  #afterModels(): void {
    const session = this.#session!;
    const shipped = shippedModel(this.#settings.model);
    const { unet, classifier } = this.#opened;
    this.#files = {
      unet: unet ?? { name: shipped.unet.name, size: shipped.unet.bytes },
      classifier: session.classifier
        ? (classifier ?? { name: shipped.classifier.name, size: shipped.classifier.bytes })
        : null,
    };
    this.#classNames = session.classNames;
    const files = [unet, classifier].flatMap((opened) => (opened ? [opened.name] : []));
    const possible = (['classifier', 'free', 'none'] as const).filter((name) => session.whyNot(name) === null);
    const guidance = possible.includes(this.#settings.guidance) ? this.#settings.guidance : possible[0]!;
    const outside = this.#settings.classes?.some((k) => k >= this.#classNames.length) ?? false;
    this.#settings = {
      ...this.#settings,
      files,
      guidance,
      classes: outside ? null : this.#settings.classes,
      count: Math.min(this.#settings.count, session.maxCount),
    };
    const { in_channels: c, image_size: size } = session.unet.config.model;
    this.#shape = { n: this.#settings.count, c, h: size, w: size };
    this.#form.show(this.#settings);
    this.#form.offer({
      models: SHIPPED.map(({ id, title }) =>
        unet && id === this.#settings.model ? { id, title: `${unet.name}, ${size}×${size}` } : { id, title },
      ),
      classes: this.#classNames,
      maxCount: session.maxCount,
      whyNot: (name) => session.whyNot(name),
    });
    this.#checkpoints.inUse(session, this.#files);
    this.#writeAddress();
    this.#showStart();
    this.#showTools();
  }

  // ---------------------------------------------------------------------------------------------------- settings

  #changed(settings: Settings, show = false): void {
    const before = this.#settings;
    this.#settings = settings;
    if (show) this.#form.show(settings);
    this.#writeAddress();
    this.#showTools();
    if (settings.model !== before.model) {
      void this.#changeModel();
      return;
    }
    if (samePictures(before, settings)) {
      this.#strip.mark(settings.scale);
      this.#draw();
      return;
    }
    this.#shape = { ...this.#shape, n: settings.count };
    if (!this.#session?.loaded) {
      this.#showStart();
      return;
    }
    clearTimeout(this.#settle);
    this.#settle = window.setTimeout(() => void this.#generate(), SETTLE_MS);
  }

  async #changeModel(): Promise<void> {
    this.#opened = { unet: null, classifier: null };
    await this.#gpu.quiet();
    this.#run = null;
    await this.#connect();
  }

  #writeAddress(): void {
    history.replaceState(null, '', `${writeQuery(this.#settings, this.#classNames)}${location.hash}`);
  }

  #labels(): number[] {
    return labelsOf(this.#settings, this.#classNames.length);
  }

  // ------------------------------------------------------------------------------------------------------- runs

  #runOptions(guidance: GuidanceName, labels: readonly number[], work: Work): RunOptions {
    const session = this.#session!;
    const { sampler, steps, eta, seed, scale } = this.#settings;
    const denoiser = session.denoiser(guidance, labels.length);
    return {
      denoiser,
      process: session.process({ sampler, steps }),
      respacing: session.respacing({ sampler, steps }),
      sampler,
      labels,
      scale: guidance === 'none' ? 0 : scale,
      eta,
      seed,
      signal: work.controller.signal,
      onCompile: (done, total) => this.#reportCompiling(work, done, total),
    };
  }

  #reportCompiling(work: Work, done: number, total: number): void {
    if (this.#gpu.current !== work || work.controller.signal.aborted) return;
    if (work.name === 'images') this.#setPhase('compiling');
    this.#status.say('Compiling', `${done} of ${plural(total, 'kernel')}`);
    this.#status.bar(done / total);
    this.#status.facts('All kernels at once, and none while sampling');
    this.#status.announce('Compiling');
  }

  /** Begins anew with the settings as they are. */
  async #generate(): Promise<void> {
    clearTimeout(this.#settle);
    if (!(await this.#gpu.quiet()) || !this.#session) return;
    const old = this.#run;
    this.#run = null;
    await old?.close();
    this.#scrubbed = null;
    this.#clearErrors();
    this.#showStart();
    await this.#gpu.exclusively('images', async (work) => {
      const { guidance } = this.#settings;
      const run = new Run({
        ...this.#runOptions(guidance, this.#labels(), work),
        judge: guidance === 'classifier' ? null : this.#session!.judge(this.#settings.count),
        onStep: () => this.#stepped(work),
        onRecord: () => this.#draw(),
      });
      this.#run = run;
      this.#seconds = 0;
      await this.#advance(work, run);
    });
  }

  /** After a stop: from the next step on. */
  async #goOn(): Promise<void> {
    const run = this.#run;
    if (!run || run.ended || !(await this.#gpu.quiet())) return;
    this.#scrubbed = null;
    this.#clearErrors();
    await this.#gpu.exclusively('images', (work) => this.#advance(work, run));
  }

  async #advance(work: Work, run: Run): Promise<void> {
    work.run = run;
    if (run.submitted > 0) this.#setPhase('sampling');
    this.#startedAt = performance.now();
    const before = this.#seconds;
    const end = await run.advance();
    this.#seconds = before + (performance.now() - this.#startedAt) / 1000;
    this.#setPhase(end);
    showBadge(this.#session!.runtime.adapter, run.stepMs);
    this.#draw();
    this.#showStatus();
    this.#gpu.rest((signal) => run.judgeRest(signal));
  }

  #stepped(work: Work): void {
    if (this.#gpu.current !== work || !work.run) return;
    if (work.name === 'images' && this.#phase !== 'sampling') {
      this.#setPhase('sampling');
      this.#startedAt = performance.now();
    }
    this.#showStatus();
    const { submitted, count, stepMs } = work.run;
    const quarter = Math.floor((4 * submitted) / count);
    this.#status.announce(`${WORK_TITLES[work.name]}, ${quarter * 25} percent`);
    if (work.name === 'images' && submitted % 5 === 0) showBadge(this.#session!.runtime.adapter, stepMs);
  }

  /** Stops within the step under way; what there is stays. */
  #stop(): void {
    clearTimeout(this.#settle);
    if (this.#phase === 'loading') {
      this.#loading.abort();
      return;
    }
    const work = this.#gpu.current;
    if (!work) return;
    work.stopped = true;
    if (work.run && work.run.submitted > 0) work.run.stop();
    else work.controller.abort();
    this.#status.say('Stopping', 'after this step');
  }

  /** Something beside the main run, which pauses for it and goes on afterwards. */
  async #aside(name: 'strip' | 'ways', body: (work: Work) => Promise<void>): Promise<void> {
    if (!this.#session?.loaded) return;
    const busy = this.#gpu.current?.name === 'images';
    const paused = busy && (this.#run?.submitted ?? 0) > 0 ? this.#run : null;
    if (paused) {
      paused.stop();
      await this.#gpu.idle;
    }
    if (!(await this.#gpu.quiet())) return;
    const { ticket } = this.#gpu;
    const work = await this.#gpu.exclusively(name, body);
    if (ticket !== this.#gpu.ticket) return;
    this.#showStatus();
    if (!busy || work.stopped) return;
    // A run that was cut off while compiling has nothing to go on from.
    if (paused && paused === this.#run) {
      if (!paused.ended) await this.#goOn();
    } else await this.#generate();
  }

  async #runStrip(): Promise<void> {
    const image = this.#grid.selected;
    await this.#aside('strip', async (work) => {
      const session = this.#session!;
      const label = this.#labels()[image]!;
      const guidance = this.#settings.guidance === 'none' ? this.#asideGuidance() : this.#settings.guidance;
      this.#stripImage = image;
      this.#noteStrip();
      this.#strip.showStart(this.#startPixels, this.#shape, image);
      const run = new Run({
        ...this.#runOptions(
          guidance,
          SCALES.map(() => label),
          work,
        ),
        scale: SCALES,
        sameImage: image,
        onStep: () => this.#stepped(work),
        onRecord: ({ history: h }) => this.#paint(() => this.#strip.show(h, h.frameAt(h.done)!)),
      });
      work.run = run;
      await run.advance();
      this.#strip.probabilities(await this.#judgeEnd(session, run));
      await run.close();
    });
  }

  /** What there is to guide with when nothing was asked for. */
  #asideGuidance(): GuidanceName {
    return (['classifier', 'free', 'none'] as const).find((name) => this.#session!.whyNot(name) === null) ?? 'none';
  }

  async #runWays(): Promise<void> {
    await this.#aside('ways', async (work) => {
      const session = this.#session!;
      const labels = this.#labels().slice(0, WAY_IMAGES);
      this.#showWaysStart();
      byId('ways-run').textContent = 'Run again';
      for (const way of WAYS) {
        const missing = session.whyNot(way);
        if (missing) throw new Error(`Two ways needs both: ${missing}`);
      }
      for (const way of WAYS) {
        const run = new Run({
          ...this.#runOptions(way, labels, work),
          ...(way === 'free' ? { scale: this.#settings.freeScale } : {}),
          onStep: () => this.#stepped(work),
          onRecord: ({ history: h }) => this.#paint(() => this.#ways.show(way, h, h.frameAt(h.done)!)),
        });
        work.run = run;
        await run.advance();
        this.#ways.result(way, await this.#judgeEnd(session, run), run.stepMs);
        await run.close();
        if (work.stopped) return;
      }
    });
  }

  /** The classifier's probability of each image's class as it is now, at the least noise. */
  async #judgeEnd(session: Session, { history: h }: Run): Promise<number[] | null> {
    const judge = await session.judge(h.shape.n);
    if (!judge || !h.last) return null;
    const { logProbs } = await judge.judge(h.last, h.done === h.count ? 0 : (h.timesteps[h.done - 1] ?? 0), h.labels);
    return h.labels.map((label, i) => Math.exp(logProbs[i * judge.classes + label]!));
  }

  // ------------------------------------------------------------------------------------------------ checkpoints

  async #open(files: NamedFile[]): Promise<void> {
    const session = this.#session;
    const name = files.map((file) => file.name).join(', ');
    if (!session?.loaded) {
      this.#checkpoints.refuse(name, new Error('the page is not ready for it; wait until the first images are there'));
      return;
    }
    let opened: Opened;
    try {
      opened = openCheckpoint(files, { unet: session.unet.config });
    } catch (error) {
      this.#checkpoints.refuse(name, error);
      return;
    }
    if (!(await this.#gpu.quiet())) return;
    const old = this.#run;
    this.#run = null;
    await old?.close();
    this.#useOpened(opened);
    this.#afterModels();
    const use = opened.config.kind === 'unet' ? 'U-Net' : 'classifier';
    const gone = use === 'U-Net' && !session.classifier ? ' The classifier did not fit it and was put away.' : '';
    this.#checkpoints.accepted(
      opened.name,
      use,
      `${describeModel(opened.config)}.${gone}${describeAssumptions(opened.assumptions)}`,
    );
    await this.#generate();
  }

  #useOpened(opened: Opened): void {
    const model: Model = buildModel(this.#session!.runtime, opened.checkpoint, opened.config);
    if (model.isUNet()) {
      this.#session!.use({ unet: model });
      this.#opened = { unet: opened, classifier: this.#session!.classifier ? this.#opened.classifier : null };
    } else if (model.isClassifier()) {
      this.#session!.use({ classifier: model });
      this.#opened = { ...this.#opened, classifier: opened };
    }
  }

  // ---------------------------------------------------------------------------------------------------- showing

  #setPhase(phase: Phase): void {
    this.#phase = phase;
    document.body.dataset['phase'] = phase;
    const waiting = phase === 'loading';
    byId('fill').hidden = !waiting;
    this.#showButtons();
  }

  #fail(error: unknown, signal: AbortSignal): void {
    if (signal.aborted) {
      // Stopped while loading or compiling: nothing was made yet, so nothing is there to go on from.
      if (this.#gpu.current?.stopped || this.#phase === 'loading') {
        if (this.#gpu.current?.name === 'images') this.#run = null;
        this.#setPhase('stopped');
        this.#showStatus();
      }
      return;
    }
    if (error instanceof PilotwaveError && (error.code === 'no-webgpu' || error.code === 'no-adapter')) {
      void this.#withoutGpu(error.code === 'no-webgpu');
      return;
    }
    if (error instanceof PilotwaveError && error.code === 'device-lost') return; // told by the device itself
    const aside = this.#gpu.current !== null && this.#gpu.current.name !== 'images';
    if (!aside) this.#setPhase('error');
    this.#showStatus();
    this.#notify(notice('error', 'It could not go on:', error instanceof Error ? error.message : String(error)));
  }

  async #withoutGpu(missing: boolean): Promise<void> {
    this.#setPhase('no-webgpu');
    document.body.classList.add('no-gpu');
    showNoAdapter();
    this.#form.disable();
    this.#status.none();
    this.#status.facts();
    this.#status.say('No WebGPU here', 'recorded images below');
    this.#status.announce('No WebGPU here. Recorded images are shown.');
    const reason = missing ? 'this browser does not offer it' : 'this browser found no graphics processor to offer';
    showAdvice(byId('no-webgpu'), reason, isSecureContext, {
      sentence: 'The images below were recorded on another machine; the ruler goes through their steps.',
      heading: 'Recorded images',
    });
    for (const id of ['strip-block', 'ways-block', 'checkpoints-block']) byId(id).hidden = true;
    byId('tools').hidden = true;
    try {
      const { recording, history: recorded } = await loadRecording();
      this.#recorded = recorded;
      this.#settings = { ...this.#settings, ...recording.settings, classes: null, view: 'x0' };
      this.#shape = recording.shape;
      this.#form.show(this.#settings);
      this.#form.disable();
      this.#status.facts(
        `recorded on ${recording.adapter}`,
        `${GUIDANCE_TITLES[recording.settings.guidance]}, scale ${scaleText(recording.settings.scale)}`,
        `${SAMPLER_TITLES[recording.settings.sampler]}, ${plural(recording.settings.steps, 'step')}`,
      );
      this.#grid.build(recording.labels.map((k) => this.#classNames[k]!));
      this.#scrub(recorded.count);
    } catch (error) {
      this.#notify(notice('error', 'The recorded images could not be fetched:', String(error)));
    }
  }

  #showButtons(): void {
    const busy = this.#gpu.current !== null || this.#phase === 'loading';
    const off = this.#phase === 'no-webgpu';
    for (const button of all<HTMLButtonElement>('[data-go]')) {
      const state = `${busy} ${off}`;
      if (button.dataset['state'] === state) continue;
      button.dataset['state'] = state;
      button.className = `btn go ${busy ? 'stop' : 'primary'}`;
      button.disabled = off;
      button.replaceChildren(
        icon(busy ? 'stop' : 'play'),
        busy ? 'Stop' : 'Generate',
        ...(busy ? [make('kbd', { class: 'opt' }, 'Esc')] : []),
      );
    }
    const ready = this.#session?.loaded ?? false;
    for (const id of ['strip-run', 'ways-run']) byId<HTMLButtonElement>(id).disabled = !ready;
    const has = (this.#run?.history.done ?? 0) > 0;
    for (const id of ['save-image', 'save-sheet', 'save-film']) byId<HTMLButtonElement>(id).disabled = !has;
  }

  #showTools(): void {
    const { view, heat } = this.#settings;
    for (const radio of all<HTMLInputElement>('input[name="view"]')) radio.checked = radio.value === view;
    byId('heat').setAttribute('aria-pressed', String(heat));
    byId('tiles').classList.toggle('heat-on', heat);
  }

  /** The noise that everything begins with: known before any model is. */
  #showStart(): void {
    const { seed, count } = this.#settings;
    this.#shape = { ...this.#shape, n: count };
    const noise = gaussianNoise({ seed, firstImage: 0, step: 0, stream: STREAM.start }, this.#shape);
    this.#startPixels = imageBytes(noise.map((v) => v * SHOWN_NOISE)) as Uint8Array<ArrayBuffer>;
    const labels = this.#labels();
    this.#grid.build(labels.map((k) => this.#classNames[k]!));
    if (!this.#run) this.#grid.showStart(this.#startPixels, this.#shape);
    this.#strip.mark(this.#settings.scale);
    this.#forgetAsides();
    this.#noteStrip();
    this.#draw();
  }

  /** The strip and the ways begin anew when what they were made with has changed. */
  #forgetAsides(): void {
    const { scale, freeScale, view, heat, keepSeed, ...shared } = this.#settings;
    const strip = JSON.stringify(shared);
    const ways = JSON.stringify([shared, scale, freeScale]);
    if (strip !== this.#madeWith.strip) this.#stripImage = -1;
    if (ways !== this.#madeWith.ways) this.#showWaysStart();
    this.#madeWith = { strip, ways };
  }

  #showWaysStart(): void {
    byId('ways-run').textContent = 'Run';
    const names = this.#labels()
      .slice(0, WAY_IMAGES)
      .map((k) => this.#classNames[k]!);
    this.#ways.showStart(this.#startPixels, this.#shape, names, this.#settings.scale);
  }

  #noteStrip(): void {
    const { selected } = this.#grid;
    const made = this.#stripImage >= 0;
    const image = made ? this.#stripImage : selected;
    const name = this.#classNames[this.#labels()[image] ?? 0] ?? '';
    this.#strip.note(`Image ${image + 1} from one seed at six scales, with the classifier’s probability of ${name}`);
    byId('strip-run').textContent =
      made && selected !== image ? `Run for image ${selected + 1}` : made ? 'Run again' : 'Run';
    if (!made && this.#startPixels.length > 0) this.#strip.showStart(this.#startPixels, this.#shape, image);
  }

  #showStatus(): void {
    const work = this.#gpu.current;
    if (this.#phase === 'no-webgpu' || this.#phase === 'loading') return;
    if (work && work.name !== 'images') {
      const { submitted = 0, count = 1, stepMs = null } = work.run ?? {};
      this.#status.say(WORK_TITLES[work.name], `step ${submitted} of ${count}`, this.#left(count - submitted, stepMs));
      this.#status.steps(count, submitted, 0);
      return;
    }
    const run = this.#run;
    if (!run) {
      this.#status.none();
      if (this.#phase === 'stopped') this.#status.say('Stopped', 'before the first step');
      if (this.#phase === 'error') this.#status.say('Interrupted');
      return;
    }
    const { submitted, count, stepMs } = run;
    const shown = this.#scrubbed ?? submitted;
    const over = this.#phase === 'done' || this.#phase === 'stopped' || this.#phase === 'error';
    this.#status.steps(count, shown, over ? run.history.done : 0);
    const looking = this.#scrubbed !== null && this.#scrubbed < run.history.done;
    if (this.#phase === 'sampling') {
      this.#status.say('Sampling', `step ${submitted} of ${count}`, this.#left(count - submitted, stepMs));
    } else if (this.#phase === 'done') {
      this.#status.say(
        'Done',
        looking ? `step ${shown} of ${count}` : `${plural(count, 'step')} in ${duration(this.#seconds)}`,
      );
    } else if (this.#phase === 'stopped') {
      this.#status.say('Stopped', looking ? `step ${shown} of ${count}` : `at step ${submitted} of ${count}`);
      this.#offerGoOn(submitted);
    } else if (this.#phase === 'error') this.#status.say('Interrupted', `at step ${submitted} of ${count}`);
    if (over) this.#status.announce(`${this.#phase === 'done' ? 'Done' : 'Stopped'}, ${plural(submitted, 'step')}`);
  }

  #left(steps: number, stepMs: number | null): string {
    return stepMs === null ? '' : `${duration((steps * stepMs) / 1000)} left`;
  }

  #showFacts(run: Run, shown: number): void {
    const t = run.history.timesteps[Math.max(0, Math.min(shown, run.history.done) - 1)];
    const { runtime } = this.#session!;
    this.#status.facts(
      make('span', {}, variable('t'), ` = ${t ?? '–'}`),
      `${plural(run.history.shape.n, 'image')} at once`,
      `${bytes(runtime.buffers.liveBytes)} on the GPU`,
      ...(run.stepMs === null ? [] : [`${milliseconds(run.stepMs)} a step`]),
    );
  }

  #offerGoOn(step: number): void {
    if (byId('notices').querySelector('.go-on')) return;
    const box = notice('plain', `Everything up to step ${step} is kept.`, 'Drag the ruler to look back.', [
      { title: `Go on from step ${step}`, act: () => void this.#goOn() },
    ]);
    box.classList.add('go-on');
    this.#notify(box);
  }

  #notify(box: HTMLElement): void {
    byId('notices').append(box);
  }

  #clearErrors(): void {
    for (const box of all('#notices .error, #notices .go-on')) box.remove();
  }

  #scrub(done: number): void {
    const known = this.#recorded ?? this.#run?.history;
    if (!known) return;
    this.#scrubbed = Math.min(done, known.done);
    if (this.#recorded) this.#status.steps(known.count, this.#scrubbed, known.count);
    this.#draw();
    this.#showStatus();
  }

  /** Draws the grid and the diagnostics with the next picture of the screen. */
  #draw(): void {
    this.#drawing ||= requestAnimationFrame(() => {
      const calm = matchMedia('(prefers-reduced-motion: reduce)').matches && this.#phase === 'sampling';
      if (calm && performance.now() - this.#drawn < CALM_MS) {
        this.#drawing = 0;
        return;
      }
      this.#drawing = 0;
      this.#drawn = performance.now();
      this.#drawNow();
    });
  }

  #drawNow(): void {
    const kept = this.#recorded ?? this.#run?.history ?? null;
    const known = kept && kept.done > 0 ? kept : null;
    const shown = known ? (this.#scrubbed ?? known.done) : 0;
    const frame = known?.frameAt(shown) ?? null;
    const { view, guidance, steps } = this.#settings;
    if (known && frame) this.#grid.show(known, frame, view);
    else this.#grid.showStart(this.#startPixels, this.#shape);
    const image = this.#grid.selected;
    this.#diagnostics.show({
      history: known,
      count: kept?.count ?? steps,
      shown,
      image,
      label: (kept?.labels ?? this.#labels())[image] ?? 0,
      view,
      guidance,
      classNames: this.#classNames,
      start: { pixels: this.#startPixels, shape: this.#shape },
    });
    this.#noteStrip();
    this.#showButtons();
    if (this.#run && this.#session && this.#phase !== 'loading' && this.#phase !== 'compiling')
      this.#showFacts(this.#run, shown);
  }

  #paint(draw: () => void): void {
    requestAnimationFrame(draw);
  }

  // ---------------------------------------------------------------------------------------------------- buttons

  #listen(): void {
    for (const button of all('[data-go]')) {
      button.addEventListener('click', () => {
        this.#sheet.set(false);
        this.#press();
      });
    }
    for (const radio of all<HTMLInputElement>('input[name="view"]')) {
      radio.addEventListener('change', () =>
        this.#changed({ ...this.#form.settings, view: radio.value as View }, true),
      );
    }
    byId('heat').addEventListener('click', () =>
      this.#changed({ ...this.#form.settings, heat: !this.#settings.heat }, true),
    );
    byId('strip-run').addEventListener('click', () => void this.#runStrip());
    byId('ways-run').addEventListener('click', () => void this.#runWays());
    byId('save-image').addEventListener('click', () => this.#save('image'));
    byId('save-sheet').addEventListener('click', () => this.#save('sheet'));
    byId('save-film').addEventListener('click', () => this.#save('film'));
    byId('copy-link').addEventListener('click', () => void this.#copyLink());
    byId('explain-link').addEventListener('click', () => {
      byId<HTMLDetailsElement>('explain').open = true;
    });
    addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      if (this.#sheet.open) this.#sheet.set(false);
      else this.#stop();
    });
    addEventListener('resize', () => this.#draw());
  }

  #press(): void {
    if (this.#gpu.current || this.#phase === 'loading') {
      this.#stop();
      return;
    }
    if (!this.#session?.loaded) {
      void this.#connect();
      return;
    }
    if (!this.#settings.keepSeed && this.#run) {
      this.#settings = { ...this.#settings, seed: randomSeed() };
      this.#form.show(this.#settings);
      this.#writeAddress();
    }
    void this.#generate();
  }

  #save(what: 'image' | 'sheet' | 'film'): void {
    const kept = this.#run?.history;
    const frame = kept?.frameAt(this.#scrubbed ?? kept.done);
    if (!kept || !frame) return;
    void takeAway(what, {
      history: kept,
      frame,
      image: this.#grid.selected,
      settings: this.#settings,
      classNames: this.#classNames,
    });
  }

  async #copyLink(): Promise<void> {
    if (await copyText(location.href, byId('copy-link'))) {
      this.#status.announce('The link was copied');
      return;
    }
    const text = `The address of this page is the link: ${location.href}`;
    this.#notify(notice('plain', 'The browser did not allow copying.', text));
  }
}
