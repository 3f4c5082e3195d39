/**
 * @file The public surface of Pilotwave, nothing else.
 *
 * Three verbs: load a model, plan it for a batch, run it.
 *
 *   const runtime = new Runtime(await requestDevice());
 *   const unet = loadModel(runtime, await bytesOf('unet.safetensors'));
 *   const classifier = loadModel(runtime, await bytesOf('classifier.safetensors'));
 *   const { samples } = await sample(runtime, { unet, guidance: classifierGuidance(classifier), labels: [7], scale: 4 });
 */
export { type ModelConfig, modelParameters } from './checkpoints/config.ts';
export { type ClassifierModel, loadModel, Model, type UNetModel } from './checkpoints/model.ts';
export {
  type Checkpoint,
  type CheckpointTensor,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from './checkpoints/safetensors.ts';
export { type DdimOptions, ddim } from './diffusion/ddim.ts';
export { ddpm } from './diffusion/ddpm.ts';
export { Denoiser, type DenoiserOptions } from './diffusion/denoiser.ts';
export {
  createDiffusion,
  type DiffusionArguments,
  type GaussianDiffusion,
  type MeanType,
  type VarianceType,
} from './diffusion/gaussian_diffusion.ts';
export { classifierFreeGuidance, classifierGuidance, type Guidance, noGuidance } from './diffusion/guidance.ts';
export { gaussianNoise } from './diffusion/noise.ts';
export { type SampleOptions, type SampleResult, sample } from './diffusion/sample.ts';
export type { SamplingOptions, SamplingStep } from './diffusion/sampling.ts';
export { type AdapterDescription, describeAdapter, Runtime, requestDevice } from './runtime/device.ts';
export { CheckpointError, DeviceError, type ErrorCode, OptionError, PilotwaveError } from './runtime/errors.ts';
