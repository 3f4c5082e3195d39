/**
 * @file The arithmetic of a denoising step as operations of the graph; one function a shader of shaders/diffusion.
 */
import ddimStep from '../../shaders/diffusion/ddim_step.wgsl';
import ddpmStep from '../../shaders/diffusion/ddpm_step.wgsl';
import gaussianNoiseShader from '../../shaders/diffusion/gaussian_noise.wgsl';
import predictXstart from '../../shaders/diffusion/predict_xstart.wgsl';
import splitOutputShader from '../../shaders/diffusion/split_output.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, pixels, type Uniform } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import type { VarianceType } from './gaussian_diffusion.ts';
import { quantiles } from './noise.ts';

const elementwise = (x: Activation, tensors: number) => ({
  sizes: { COUNT: x.bytes / 16 },
  grid: lineGrid(x.bytes / 16, 64),
  cost: { flops: 8 * (x.bytes / 4), bytes: tensors * x.bytes },
});

/** Standard normal noise into `target`. @returns the uniform that holds its address */
export function gaussianNoise(graph: Graph, target: Activation): Uniform {
  const address = graph.uniform(gaussianNoiseShader, 'address');
  const { n, h, w, c } = target.shape;
  graph.append({
    name: 'gaussian noise',
    inputs: [],
    outputs: [target],
    updates: graph.persistent.has(target) ? [target] : [],
    lower: () => [
      kernelCall(gaussianNoiseShader, {
        bind: { address, quantiles: quantiles(), noise: target },
        sizes: { IMAGES: n, PIXELS: h * w, CHANNELS: c },
        grid: lineGrid(target.bytes / 16, 64),
        cost: { flops: 60 * target.bytes, bytes: 5 * target.bytes },
      }),
    ],
  });
  return address;
}

/**
 * The two halves of a U-Net's output.
 *
 * @param output [N, C or 2C, H, W]; with `scale` [2N, ...], and the two passes are mixed (classifier-free guidance)
 * @param scale [N, 1] or null
 */
export function splitOutput(
  graph: Graph,
  output: Activation,
  channels: number,
  scale: Activation | null,
): { mean: Activation; v: Activation | null } {
  const images = output.shape.n / (scale ? 2 : 1);
  const shape = { ...output.shape, n: images, c: channels };
  const mean = graph.activation('model mean', shape);
  const v = output.shape.c === 2 * channels ? graph.activation('model variance', shape) : null;
  graph.append({
    name: 'split output',
    inputs: scale ? [output, scale] : [output],
    outputs: v ? [mean, v] : [mean],
    lower: () => [
      kernelCall(splitOutputShader, {
        bind: { output, scale, mean, v },
        sizes: {
          IMAGES: images,
          PIXELS: pixels(shape) / images,
          CHANNELS: channels,
          OUT_CHANNELS: output.shape.c,
        },
        switches: { FREE: scale !== null, VARIANCE: v !== null },
        grid: lineGrid(mean.bytes / 16, 64),
        cost: { flops: mean.bytes, bytes: output.bytes + 2 * mean.bytes },
      }),
    ],
  });
  return { mean, v };
}

/** The clipped prediction of x_0, and the uniform with its coefficients. */
export function predictStart(
  graph: Graph,
  x: Activation,
  mean: Activation,
): { start: Activation; prediction: Uniform } {
  const prediction = graph.uniform(predictXstart, 'prediction');
  const start = graph.activation('pred_xstart', x.shape);
  graph.append({
    name: 'predict x_0',
    inputs: [x, mean],
    outputs: [start],
    lower: () => [
      kernelCall(predictXstart, { ...elementwise(x, 3), bind: { prediction, x, mean, pred_xstart: start } }),
    ],
  });
  return { start, prediction };
}

/** What a sampler's last operation reads. All but the state may be absent. */
export interface StepInputs {
  /** x_t, which becomes x_{t-1}. */
  readonly x: Activation;
  /** The prediction of x_0. */
  readonly start: Activation;
  readonly mean: Activation;
  readonly v: Activation | null;
  /** s * grad log p(y | x_t). */
  readonly gradient: Activation | null;
  readonly noise: Activation | null;
}

export interface StepOutputs {
  readonly coefficients: Uniform;
  /** The prediction of x_0 that the step used. */
  readonly predXstart: Activation;
}

const given = (...tensors: (Activation | null)[]): Activation[] => tensors.filter((t) => t !== null);

export function ddimUpdate(graph: Graph, { x, start, gradient, noise }: StepInputs): StepOutputs {
  const coefficients = graph.uniform(ddimStep, 'step');
  const predXstart = graph.activation('pred_xstart used', x.shape);
  graph.append({
    name: 'ddim step',
    inputs: given(x, start, gradient, noise),
    outputs: [predXstart],
    updates: [x],
    lower: () => [
      kernelCall(ddimStep, {
        ...elementwise(x, 4),
        bind: { step: coefficients, start, gradient, noise, x, pred_xstart: predXstart },
        switches: { GUIDED: gradient !== null, NOISE: noise !== null },
      }),
    ],
  });
  return { coefficients, predXstart };
}

const VARIANCE_SWITCH = { fixed_small: 0, fixed_large: 0, learned: 1, learned_range: 2 } as const;

export function ddpmUpdate(
  graph: Graph,
  { x, start, mean, v, gradient, noise }: StepInputs,
  variance: VarianceType,
  meanPredicted: boolean,
): StepOutputs {
  const coefficients = graph.uniform(ddpmStep, 'step');
  const learned = VARIANCE_SWITCH[variance] > 0;
  if (learned && !v) throw new Error(`variance type ${variance} needs a model with twice as many output channels`);
  if (!noise) throw new Error('ddpm needs noise');
  graph.append({
    name: 'ddpm step',
    inputs: given(x, start, meanPredicted ? mean : null, learned ? v : null, gradient, noise),
    outputs: [],
    updates: [x],
    lower: () => [
      kernelCall(ddpmStep, {
        ...elementwise(x, 5),
        bind: {
          step: coefficients,
          start,
          mean_output: meanPredicted ? mean : null,
          v: learned ? v : null,
          gradient,
          noise,
          x,
        },
        switches: {
          GUIDED: gradient !== null,
          MEAN_PREDICTED: meanPredicted,
          VARIANCE: VARIANCE_SWITCH[variance],
        },
      }),
    ],
  });
  return { coefficients, predXstart: start };
}
