/**
 * @file Golden kinds `schedule`, `respacing`, `trajectory`, `bpd` and `training_loss`.
 */
import { ddim, ddimReverse } from '../../diffusion/ddim.ts';
import { ddpm } from '../../diffusion/ddpm.ts';
import { Denoiser } from '../../diffusion/denoiser.ts';
import { createDiffusion, type DiffusionArguments, modelTimestep, tables } from '../../diffusion/gaussian_diffusion.ts';
import { classifierFreeGuidance, classifierGuidance, type Guidance, noGuidance } from '../../diffusion/guidance.ts';
import { bitsPerDim, type LikelihoodOptions, trainingLoss } from '../../diffusion/likelihood.ts';
import type { SamplingOptions, SamplingStep } from '../../diffusion/sampling.ts';
import { betaSchedule } from '../../diffusion/schedule.ts';
import type { Runtime } from '../../runtime/device.ts';
import { OptionError } from '../../runtime/errors.ts';
import type { Results } from './evaluate.ts';
import type { CaseTensors, GoldenCase, GoldenFolder } from './manifest.ts';
import { goldenModel, Unsupported } from './models.ts';

type Json = GoldenCase['config'];

const processArguments = (config: Json): DiffusionArguments => ({
  steps: config.steps,
  noise_schedule: config.noise_schedule,
  var_type: config.var_type ?? 'fixed_small',
  mean_type: config.mean_type ?? 'epsilon',
  rescale_timesteps: config.rescale_timesteps ?? false,
});

/** The tables of a plain process, under the names that the cases use, at the recorded indices. */
export async function scheduleCase(_runtime: Runtime, { config }: GoldenCase, tensors: CaseTensors): Promise<Results> {
  const index = tensors.numbers('index');
  const entries = Object.entries(tables(betaSchedule(config.noise_schedule, config.steps)));
  return Object.fromEntries(entries.map(([name, table]) => [name, index.map((i) => table[i]!)]));
}

export async function respacingCase(_runtime: Runtime, { config }: GoldenCase): Promise<Results> {
  const process = createDiffusion(processArguments(config), config.timestep_respacing);
  return { ...process, timestep_map: process.timestepMap } as unknown as Results;
}

/** Arguments that the original refuses must be refused here too. */
export async function refusalCase({ config }: GoldenCase): Promise<string | null> {
  try {
    createDiffusion(processArguments(config), config.timestep_respacing ?? '');
  } catch (error) {
    if (error instanceof OptionError) return null;
    throw error;
  }
  return 'expected these arguments to be refused';
}

/** One array for all steps, in the order they are taken. */
class Recording {
  readonly #parts = new Map<string, Float32Array[]>();

  add(name: string, values: Float32Array | null): void {
    if (!values) return;
    const parts = this.#parts.get(name);
    if (parts) parts.push(values);
    else this.#parts.set(name, [values]);
  }

  results(prefix: string): Results {
    const results: Results = {};
    for (const [name, parts] of this.#parts) results[prefix + name] = parts.flatMap((part) => [...part]);
    return results;
  }
}

export async function trajectoryCase(
  runtime: Runtime,
  golden: GoldenCase,
  tensors: CaseTensors,
  folder: GoldenFolder,
): Promise<Results> {
  const { config } = golden;
  const sampler = config.sampler as string;
  if (!['p', 'ddim', 'ddim_reverse'].includes(sampler)) throw new Unsupported(`sampler ${sampler}`);
  const [n, c, height, width] = config.shape as [number, number, number, number];
  const unet = goldenModel(runtime, folder, config.model);
  const classifier = config.classifier ? goldenModel(runtime, folder, config.classifier) : null;
  if (!unet.isUNet()) throw new Error(`${config.model} is no U-Net`);
  if (classifier && !classifier.isClassifier()) throw new Error(`${config.classifier} is no classifier`);

  const classes = unet.config.model.num_classes;
  const conditional = classes !== null;
  const guidance: Guidance = classifier
    ? classifierGuidance(classifier, { conditional })
    : config.cfg_scale !== undefined
      ? classifierFreeGuidance()
      : noGuidance({ conditional });
  // In these cases the last class is the null class, but labels may name any: only classifier-free guidance reserves it.
  const described = { ...unet.config, nullClass: config.cfg_scale === undefined ? null : classes! - 1 };
  const denoiser = new Denoiser(runtime, {
    unet: Object.assign(unet, { config: described }),
    guidance,
    batch: n,
    height,
    width,
  });
  const diffusion = processArguments(config.diffusion);
  const noise = tensors.has('noise') ? tensors.floats('noise') : null;
  const size = n * c * height * width;
  const noiseOf = (index: number) => noise!.subarray(index * size, (index + 1) * size);
  const options: SamplingOptions & { eta: number } = {
    diffusion,
    respacing: config.diffusion.timestep_respacing ?? '',
    clipDenoised: config.clip_denoised ?? true,
    eta: config.eta ?? 0,
    ...(tensors.has('y') ? { labels: tensors.numbers('y') } : {}),
    scale: config.classifier_scale ?? config.cfg_scale ?? 1,
    start: tensors.floats('x_T'),
    ...(noise ? { noise: noiseOf } : {}),
  };
  const run = (more: Partial<SamplingOptions>) => {
    if (sampler === 'ddim_reverse') return ddimReverse(denoiser, { ...options, ...more, start: tensors.floats('x_T') });
    return sampler === 'ddim' ? ddim(denoiser, { ...options, ...more }) : ddpm(denoiser, { ...options, ...more });
  };

  const record = async (step: SamplingStep, into: Recording) => {
    const { mean, v } = await step.modelOutput();
    into.add('sample', await step.sample());
    into.add('pred_xstart', await step.predXstart());
    into.add('model_output', v ? joinChannels(mean, v, n) : mean);
    into.add('cond_grad', await step.gradient());
  };
  try {
    const free = new Recording();
    const told: number[] = [];
    const process = createDiffusion(diffusion, config.diffusion.timestep_respacing ?? '');
    for await (const step of run({})) {
      await record(step, free);
      told.push(modelTimestep(process, step.t));
    }
    const single = new Recording();
    const samples = tensors.floats('sample');
    const from = (index: number) =>
      index === 0 ? tensors.floats('x_T') : samples.subarray((index - 1) * size, index * size);
    for await (const step of run({ stateBefore: from })) await record(step, single);
    return { ...free.results(''), t_model: told, ...single.results('single_step.') };
  } finally {
    denoiser.dispose();
    unet.dispose();
    classifier?.dispose();
  }
}

/** [N, C, ...] and [N, C, ...] as [N, 2C, ...]. */
function joinChannels(a: Float32Array, b: Float32Array, images: number): Float32Array {
  const size = a.length / images;
  const joined = new Float32Array(2 * a.length);
  for (let n = 0; n < images; n++) {
    joined.set(a.subarray(n * size, (n + 1) * size), 2 * n * size);
    joined.set(b.subarray(n * size, (n + 1) * size), (2 * n + 1) * size);
  }
  return joined;
}

/** A denoiser without guidance around a case's model, for as long as `work` lasts. */
async function withDenoiser(
  runtime: Runtime,
  golden: GoldenCase,
  tensors: CaseTensors,
  folder: GoldenFolder,
  work: (denoiser: Denoiser, options: LikelihoodOptions) => Promise<Results>,
): Promise<Results> {
  const { config } = golden;
  const [batch, , height, width] = config.shape as [number, number, number, number];
  const unet = goldenModel(runtime, folder, config.model);
  if (!unet.isUNet()) throw new Error(`${config.model} is no U-Net`);
  const guidance = noGuidance({ conditional: unet.config.model.num_classes !== null });
  const denoiser = new Denoiser(runtime, { unet, guidance, batch, height, width });
  const options: LikelihoodOptions = {
    pictures: tensors.floats('x_start'),
    diffusion: processArguments(config.diffusion),
    respacing: config.diffusion.timestep_respacing ?? '',
    clipDenoised: config.clip_denoised ?? true,
    ...(tensors.has('y') ? { labels: tensors.numbers('y') } : {}),
  };
  try {
    return await work(denoiser, options);
  } finally {
    denoiser.dispose();
    unet.dispose();
  }
}

export const bpdCase = (runtime: Runtime, golden: GoldenCase, tensors: CaseTensors, folder: GoldenFolder) =>
  withDenoiser(runtime, golden, tensors, folder, async (denoiser, options) => {
    const noise = tensors.floats('noise');
    const size = options.pictures.length;
    const noiseOf = (index: number) => noise.subarray(index * size, (index + 1) * size);
    const { total, prior, steps } = await bitsPerDim(denoiser, { ...options, noise: noiseOf });
    const byImage = (name: 'vb' | 'xstart_mse' | 'mse') => prior.flatMap((_, n) => steps.map((step) => step[name][n]!));
    return {
      total_bpd: total,
      prior_bpd: prior,
      vb: byImage('vb'),
      xstart_mse: byImage('xstart_mse'),
      mse: byImage('mse'),
    };
  });

export const trainingLossCase = (runtime: Runtime, golden: GoldenCase, tensors: CaseTensors, folder: GoldenFolder) =>
  withDenoiser(runtime, golden, tensors, folder, async (denoiser, options) => {
    const { loss, mse, vb } = await trainingLoss(denoiser, {
      ...options,
      t: tensors.numbers('t'),
      noise: tensors.floats('noise'),
      loss: golden.config.diffusion.loss_type ?? 'mse',
    });
    return { loss, ...(mse ? { mse } : {}), ...(vb ? { vb } : {}) };
  });
