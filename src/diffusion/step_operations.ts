/**
 * @file The arithmetic of a denoising step as operations of the graph; one function for each use of a shader of
 * shaders/diffusion. Factors that change from step to step are in uniforms, which the functions return.
 */
import accumulateShader from '../../shaders/diffusion/accumulate.wgsl';
import combineShader from '../../shaders/diffusion/combine.wgsl';
import ddpmStep from '../../shaders/diffusion/ddpm_step.wgsl';
import dynamicThresholdShader from '../../shaders/diffusion/dynamic_threshold.wgsl';
import filterGradientShader from '../../shaders/diffusion/filter_gradient.wgsl';
import gaussianNoiseShader from '../../shaders/diffusion/gaussian_noise.wgsl';
import keepKnownShader from '../../shaders/diffusion/keep_known.wgsl';
import linearStep from '../../shaders/diffusion/linear_step.wgsl';
import splitOutputShader from '../../shaders/diffusion/split_output.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, pixels, type Tensor, type Uniform } from '../runtime/resources.ts';
import { kernelCall, lineGrid } from '../runtime/shader.ts';
import type { VarianceType } from './gaussian_diffusion.ts';
import { quantiles } from './noise.ts';

const elementwise = (x: Activation, tensors: number) => ({
  sizes: { COUNT: x.bytes / 16 },
  grid: lineGrid(x.bytes / 16, 64),
  cost: { flops: 8 * (x.bytes / 4), bytes: tensors * x.bytes },
});

const given = (...tensors: (Tensor | null)[]): Tensor[] => tensors.filter((t) => t !== null);

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

/** clamp(a_factor * a + b_factor * b, -limit, limit), and the uniform with the factors. */
export function combine(graph: Graph, name: string, a: Activation, b: Activation): { y: Activation; factors: Uniform } {
  const factors = graph.uniform(combineShader, 'factors');
  const y = graph.activation(name, a.shape);
  graph.append({
    name,
    inputs: [a, b],
    outputs: [y],
    lower: () => [kernelCall(combineShader, { ...elementwise(a, 3), bind: { factors, a, b, y } })],
  });
  return { y, factors };
}

/** A limit for `combine` that limits nothing. */
export const NO_LIMIT = 3e38;

/** Each picture clamped to a quantile of its own magnitudes and scaled back to [-1, 1]. */
export function dynamicThreshold(graph: Graph, x: Activation): { y: Activation; threshold: Uniform } {
  const { n, h, w, c } = x.shape;
  if (h * w * c >= 2 ** 24) throw new Error('dynamic thresholding counts up to 2^24 values a picture');
  const threshold = graph.uniform(dynamicThresholdShader, 'threshold');
  const y = graph.activation('pred_xstart thresholded', x.shape);
  graph.append({
    name: 'dynamic threshold',
    inputs: [x],
    outputs: [y],
    lower: () => [
      kernelCall(dynamicThresholdShader, {
        bind: { threshold, x, y },
        sizes: { PIXELS: h * w, CHANNELS: c },
        grid: [n, 1, 1],
        cost: { flops: 8 * (x.bytes / 4), bytes: 7 * x.bytes },
      }),
    ],
  });
  return { y, threshold };
}

/** x = x + y in place. */
export function accumulate(graph: Graph, x: Activation, y: Activation): void {
  graph.append({
    name: 'accumulate',
    inputs: [x, y],
    outputs: [],
    updates: [x],
    lower: () => [kernelCall(accumulateShader, { ...elementwise(x, 3), bind: { y, x } })],
  });
}

/**
 * The gradient passed through momentum or Adam, with a state that lasts from step to step.
 *
 * @param gradient at scale 1
 * @param scale [N, 1]
 */
export function filterGradient(
  graph: Graph,
  kind: 'momentum' | 'adam',
  gradient: Activation,
  scale: Activation,
): { y: Activation; filter: Uniform } {
  const filter = graph.uniform(filterGradientShader, 'filter_');
  const state = graph.inputArray('guidance state', (gradient.bytes / 4) * (kind === 'adam' ? 2 : 1));
  const y = graph.activation('filtered gradient', gradient.shape);
  const { sizes, grid, cost } = elementwise(gradient, 6);
  graph.append({
    name: `guidance ${kind}`,
    inputs: [gradient, scale, state],
    outputs: [y],
    updates: [state],
    lower: () => [
      kernelCall(filterGradientShader, {
        bind: { filter_: filter, g: gradient, scale, state, y },
        sizes: { ...sizes, PER_IMAGE: sizes.COUNT / gradient.shape.n },
        switches: { ADAM: kind === 'adam' },
        grid,
        cost,
      }),
    ],
  });
  return { y, filter };
}

/** The known part of a picture put back at the noise level of x, in place. @returns the uniform with the level */
export function keepKnown(
  graph: Graph,
  x: Activation,
  known: Activation,
  mask: Activation,
  noise: Activation,
): Uniform {
  const level = graph.uniform(keepKnownShader, 'level');
  graph.append({
    name: 'keep known',
    inputs: [x, known, mask, noise],
    outputs: [],
    updates: [x],
    lower: () => [kernelCall(keepKnownShader, { ...elementwise(x, 5), bind: { level, mask, known, noise, x } })],
  });
  return level;
}

/** A step that is linear in x, the prediction of x_0, noise, and with `history` in what the step before saved. */
export function linearUpdate(
  graph: Graph,
  x: Activation,
  start: Activation,
  noise: Activation | null,
  history: boolean,
): Uniform {
  const step = graph.uniform(linearStep, 'step');
  const saved = history ? graph.inputArray('sampler history', (2 * x.bytes) / 4) : null;
  graph.append({
    name: 'linear step',
    inputs: given(x, start, noise, saved),
    outputs: [],
    updates: given(x, saved),
    lower: () => [
      kernelCall(linearStep, {
        ...elementwise(x, 4),
        bind: { step, start, noise, x, history: saved },
        switches: { NOISE: noise !== null, HISTORY: history },
      }),
    ],
  });
  return step;
}

const VARIANCE_SWITCH = { fixed_small: 0, fixed_large: 0, learned: 1, learned_range: 2 } as const;

export interface AncestralInputs {
  readonly x: Activation;
  readonly start: Activation;
  /** The mean of p(x_{t-1} | x_t) where it is known already; else it follows from x and start. */
  readonly mean: Activation | null;
  readonly v: Activation | null;
  /** s * grad log p(y | .), to be multiplied by the variance. */
  readonly gradient: Activation | null;
  readonly noise: Activation;
}

/** x_{t-1} drawn from p(x_{t-1} | x_t), in place. */
export function ancestralUpdate(graph: Graph, inputs: AncestralInputs, variance: VarianceType): Uniform {
  const { x, start, mean, gradient, noise } = inputs;
  const step = graph.uniform(ddpmStep, 'step');
  const learned = VARIANCE_SWITCH[variance] > 0;
  const v = learned ? inputs.v : null;
  if (learned && !v) throw new Error(`variance type ${variance} needs a model with twice as many output channels`);
  graph.append({
    name: 'ddpm step',
    inputs: given(x, start, mean, v, gradient, noise),
    outputs: [],
    updates: [x],
    lower: () => [
      kernelCall(ddpmStep, {
        ...elementwise(x, 5),
        bind: { step, start, mean_given: mean, v, gradient, noise, x },
        switches: { GUIDED: gradient !== null, MEAN_GIVEN: mean !== null, VARIANCE: VARIANCE_SWITCH[variance] },
      }),
    ],
  });
  return step;
}
