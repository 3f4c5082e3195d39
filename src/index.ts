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
export { type BlobStore, browserCache, CheckpointCache } from './checkpoints/chunk_store.ts';
export { type ModelConfig, modelParameters } from './checkpoints/config.ts';
export { type Converted, type ConvertOptions, convertCheckpoint, type NumberFormat } from './checkpoints/convert.ts';
export { type Description, describeCheckpoint } from './checkpoints/describe.ts';
export { openDiffusers } from './checkpoints/diffusers.ts';
export {
  type FetchModelOptions,
  type FetchOptions,
  type FetchProgress,
  fetchModel,
  openUrl,
} from './checkpoints/fetch.ts';
export { type Flags, parseFlags } from './checkpoints/flags.ts';
export { type Assumption, type Inference, inferConfig } from './checkpoints/infer.ts';
export {
  buildModel,
  type ClassifierModel,
  type LoadOptions,
  loadModel,
  Model,
  openModel,
  type UNetModel,
} from './checkpoints/model.ts';
export { type OpenCheckpoint, openCheckpoint, readCheckpoint } from './checkpoints/read.ts';
export {
  type Checkpoint,
  type CheckpointTensor,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from './checkpoints/safetensors.ts';
export { openShards } from './checkpoints/shards.ts';
export { type ByteSource, memorySource } from './checkpoints/source.ts';
export { type DdimOptions, ddim, ddimReverse } from './diffusion/ddim.ts';
export { ddpm } from './diffusion/ddpm.ts';
export { type DenoisedFunction, Denoiser, type DenoiserOptions } from './diffusion/denoiser.ts';
export { dpmSolver } from './diffusion/dpm_solver.ts';
export {
  createDiffusion,
  type DiffusionArguments,
  type GaussianDiffusion,
  type MeanType,
  type VarianceType,
} from './diffusion/gaussian_diffusion.ts';
export {
  adam,
  type ClassifierOptions,
  classifierFreeGuidance,
  classifierGuidance,
  type GradientFilter,
  type GradientPlace,
  type Guidance,
  momentum,
  noGuidance,
  type Scale,
  type ScaleConvention,
  type ScalePlace,
  scaleWithin,
} from './diffusion/guidance.ts';
export { heun } from './diffusion/heun.ts';
export { imageBytes } from './diffusion/image.ts';
export { Judge, type Judgement } from './diffusion/judge.ts';
export {
  bitsPerDim,
  type Likelihood,
  type LikelihoodOptions,
  type LossOptions,
  likelihoodSteps,
  trainingLoss,
} from './diffusion/likelihood.ts';
export {
  Network,
  type NetworkInputs,
  type NetworkOptions,
  type NetworkOutput,
} from './diffusion/network.ts';
export { gaussianNoise } from './diffusion/noise.ts';
export { type SampleOptions, type SampleResult, sample } from './diffusion/sample.ts';
export type { ImageStart, Inpainting, SamplingOptions, SamplingRun, SamplingStep } from './diffusion/sampling.ts';
export type { BuildableModel } from './layers/network.ts';
export { type AdapterDescription, describeAdapter, Runtime, requestDevice } from './runtime/device.ts';
export {
  CheckpointError,
  DeviceError,
  type ErrorCode,
  NonFiniteError,
  OptionError,
  PilotwaveError,
} from './runtime/errors.ts';
