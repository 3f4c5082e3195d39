/**
 * @file A device with the models in use, and the plans made for them so far.
 *
 * Plans are kept while they may serve again: the main run, the strip and both ways need four, and a change of the scale,
 * the seed or the sampler's numbers needs none.
 */

import { createDiffusion } from '../src/diffusion/gaussian_diffusion.ts';
import {
  type ClassifierModel,
  classifierFreeGuidance,
  classifierGuidance,
  Denoiser,
  type GaussianDiffusion,
  type Guidance,
  Judge,
  loadModel,
  noGuidance,
  type PilotwaveError,
  Runtime,
  requestDevice,
  type UNetModel,
} from '../src/index.ts';
import { describeMisfit } from './files/fit.ts';
import { type GuidanceName, respacingOf, type Settings } from './settings.ts';

/** Denoisers kept at once. */
const KEPT = 5;

/** More pixels at once than this do not pay, and may not fit. */
const PIXELS_AT_ONCE = 64 * 32 * 32;

export class Session {
  readonly runtime: Runtime;
  readonly #device: GPUDevice;
  #unet: UNetModel | null = null;
  #classifier: ClassifierModel | null = null;
  readonly #denoisers = new Map<string, Denoiser>();
  readonly #judges = new Map<number, Promise<Judge>>();
  /** Set when the device is gone. */
  lost: PilotwaveError | null = null;

  private constructor(device: GPUDevice) {
    this.#device = device;
    this.runtime = new Runtime(device);
  }

  /** @throws DeviceError if there is no WebGPU or no adapter */
  static async open(): Promise<Session> {
    return new Session(await requestDevice());
  }

  get device(): GPUDevice {
    return this.#device;
  }

  get unet(): UNetModel {
    if (!this.#unet) throw new Error('no U-Net is loaded yet');
    return this.#unet;
  }

  get classifier(): ClassifierModel | null {
    return this.#classifier;
  }

  get loaded(): boolean {
    return this.#unet !== null;
  }

  /** Loads the shipped pair. */
  load(unetFile: ArrayBuffer, classifierFile: ArrayBuffer): void {
    const unet = loadModel(this.runtime, unetFile);
    const classifier = loadModel(this.runtime, classifierFile);
    if (!unet.isUNet() || !classifier.isClassifier()) {
      throw new Error('the shipped checkpoints are not what they should be: expected a U-Net and a classifier');
    }
    this.use({ unet, classifier });
  }

  /** Puts models in place of those in use; a classifier that does not fit a new U-Net goes. */
  use({ unet, classifier }: { unet?: UNetModel; classifier?: ClassifierModel }): void {
    this.#dropPlans();
    if (unet) {
      this.#unet?.dispose();
      this.#unet = unet;
    }
    if (classifier) {
      this.#classifier?.dispose();
      this.#classifier = classifier;
    }
    if (this.#classifier && this.#unet && describeMisfit(this.#unet.config, this.#classifier.config)) {
      this.#classifier.dispose();
      this.#classifier = null;
    }
  }

  /** Names of the classes that both models know. */
  get classNames(): string[] {
    const names = this.unet.config.classes ?? this.#classifier?.config.classes ?? null;
    const { model, nullClass } = this.unet.config;
    const ours = model.num_classes === null ? null : model.num_classes - (nullClass === null ? 0 : 1);
    const count = ours ?? this.#classifier?.config.model.out_channels ?? 1;
    return Array.from({ length: count }, (_, k) => names?.[k] ?? `Class ${k}`);
  }

  /** Why a guidance cannot be used with these models, or null. */
  whyNot(guidance: GuidanceName): string | null {
    const { model, nullClass } = this.unet.config;
    if (guidance === 'classifier' && !this.#classifier) return 'no classifier that fits this U-Net is loaded';
    if (guidance === 'free' && (model.num_classes === null || nullClass === null)) {
      return 'this U-Net was not trained to go without a class';
    }
    return null;
  }

  /** The most images at once. */
  get maxCount(): number {
    return Math.max(1, Math.min(64, Math.floor(PIXELS_AT_ONCE / this.unet.config.model.image_size ** 2)));
  }

  denoiser(guidance: GuidanceName, batch: number): Denoiser {
    const key = `${guidance} ${batch}`;
    let denoiser = this.#denoisers.get(key);
    if (denoiser) this.#denoisers.delete(key);
    else denoiser = new Denoiser(this.runtime, { unet: this.unet, guidance: this.#guidance(guidance), batch });
    this.#denoisers.set(key, denoiser); // the last in the map was used last
    for (const [old, unused] of this.#denoisers) {
      if (this.#denoisers.size <= KEPT) break;
      unused.dispose();
      this.#denoisers.delete(old);
    }
    return denoiser;
  }

  /** Steered images come from the unconditional model, as far as it can do without a class. */
  #guidance(name: GuidanceName): Guidance {
    const { model, nullClass } = this.unet.config;
    const conditional = model.num_classes !== null && nullClass === null;
    if (name === 'classifier') return classifierGuidance(this.#classifier!, { conditional });
    return name === 'free' ? classifierFreeGuidance() : noGuidance({ conditional });
  }

  judge(batch: number): Promise<Judge> | null {
    if (!this.#classifier) return null;
    let judge = this.#judges.get(batch);
    if (!judge) {
      judge = Judge.create(this.runtime, this.#classifier, batch);
      this.#judges.set(batch, judge);
      judge.catch(() => this.#judges.delete(batch));
    }
    return judge;
  }

  /** The process a run goes through. */
  process({ sampler, steps }: Pick<Settings, 'sampler' | 'steps'>): GaussianDiffusion {
    const { diffusion } = this.unet.config;
    if (!diffusion) throw new Error('this U-Net does not say which diffusion process it was trained with');
    return createDiffusion(diffusion, this.respacing({ sampler, steps }));
  }

  respacing({ sampler, steps }: Pick<Settings, 'sampler' | 'steps'>): string {
    return respacingOf(sampler, steps, this.unet.config.diffusion?.steps ?? 1000);
  }

  #dropPlans(): void {
    for (const denoiser of this.#denoisers.values()) denoiser.dispose();
    this.#denoisers.clear();
    for (const judge of this.#judges.values()) void judge.then((made) => made.dispose()).catch(() => {});
    this.#judges.clear();
  }

  dispose(): void {
    this.#dropPlans();
    this.#unet?.dispose();
    this.#classifier?.dispose();
    this.runtime.dispose();
    this.#device.destroy();
  }
}
