import { describe, expect, test } from 'vitest';
import { modelParameters, unetArguments } from '../../src/checkpoints/config.ts';
import { buildModel, Model } from '../../src/checkpoints/model.ts';
import { evaluate } from '../../src/cli/verify/evaluate.ts';
import { ddim } from '../../src/diffusion/ddim.ts';
import { ddpm } from '../../src/diffusion/ddpm.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { classifierGuidance, noGuidance } from '../../src/diffusion/guidance.ts';
import { gaussianNoise, STREAM } from '../../src/diffusion/noise.ts';
import { processOf, type SamplingOptions } from '../../src/diffusion/sampling.ts';
import { timestepEmbedding } from '../../src/layers/embedding.ts';
import * as superResolution from '../../src/layers/super_resolution.ts';
import { NonFiniteError } from '../../src/runtime/errors.ts';
import { Weights } from '../../src/runtime/weights.ts';
import { checkpointOf, expectClose, testRuntime, values } from '../device.ts';
import { randomWeights, TINY, tinyModels } from '../models.ts';
import { last, reconfigured, record, zip } from './run.ts';

const runtime = await testRuntime();
const { unet, classifier } = tinyModels(runtime);
const conditional = new Denoiser(runtime, { unet, guidance: noGuidance({ conditional: true }), batch: 2 });
const { shape } = conditional;
const PICTURE = TINY.c * TINY.h * TINY.w;
const labels = [0, 7];
const noiseOf = (stream: (typeof STREAM)[keyof typeof STREAM], step: number, seed = 0) =>
  gaussianNoise({ seed, firstImage: 0, step, stream }, shape);
const options: SamplingOptions = { labels, respacing: 'ddim5', seed: 4 };
const pictures = await last(ddim(conditional, options));

describe('from a picture', () => {
  test('starts where the strength says, at the picture with noise on it', async () => {
    const process = processOf(conditional, options);
    const steps = await record(ddim(conditional, { ...options, image: { pictures, strength: 0.4 } }));
    expect(steps.map(({ t }) => t)).toEqual([1, 0]);
    const a = process.sqrt_alphas_cumprod[1]!;
    const b = process.sqrt_one_minus_alphas_cumprod[1]!;
    const start = Float32Array.from(zip((x0, z) => a * x0 + b * z, pictures, noiseOf(STREAM.start, 0, 4)));
    const stateBefore = (index: number) => (index === 3 ? start : pictures);
    const whole = await record(ddim(conditional, { ...options, stateBefore }));
    expectClose(steps[0]!.sample, whole[3]!.sample, 1e-6);
  });

  test.each([
    [{ strength: 0 }, 'strength should be above 0'],
    [{ strength: 1.5 }, 'strength should be above 0'],
    [{ strength: 1, pictures: new Float32Array(5) }, 'the pictures should hold 128 values, found 5'],
  ])('%j is refused', async (image, message) => {
    const run = last(ddim(conditional, { ...options, image: { pictures, ...image } }));
    await expect(run).rejects.toThrow(message);
  });
});

describe('inpainting', () => {
  // The right half is made anew.
  const mask = Float32Array.from({ length: pictures.length }, (_, i) => (i % 8 >= 4 ? 1 : 0));

  test.each(['ddim', 'ddpm'] as const)(
    '%s keeps the known part at its noise level, and in the end exactly',
    async (name) => {
      const sampler = { ddim, ddpm }[name];
      const process = processOf(conditional, options);
      const steps = await record(sampler(conditional, { ...options, inpaint: { pictures, mask } }));
      const plain = await record(
        sampler(conditional, {
          ...options,
          stateBefore: (i) => (i === 0 ? noiseOf(STREAM.start, 0, 4) : steps[i - 1]!.sample),
        }),
      );
      for (const [index, { t, sample }] of steps.entries()) {
        const abar = t === 0 ? 1 : process.alphas_cumprod[t - 1]!;
        const known = zip(
          (p, z) => Math.sqrt(abar) * p + Math.sqrt(1 - abar) * z,
          pictures,
          noiseOf(STREAM.known, t, 4),
        );
        const expected = zip((m, made, kept) => (m ? made : kept), mask, plain[index]!.sample, known);
        expectClose(sample, expected, 2e-6);
      }
      const final = steps.at(-1)!.sample;
      expect(final.filter((_, i) => !mask[i])).toEqual(pictures.filter((_, i) => !mask[i]));
      expect(final.filter((_, i) => mask[i])).not.toEqual(pictures.filter((_, i) => mask[i]));
    },
  );
});

describe('the prediction of x_0', () => {
  const raw = () => record(ddim(conditional, { ...options, respacing: 'ddim4', clipDenoised: false }));

  test('is clamped to [-1, 1], or not', async () => {
    const [open] = await raw();
    const [clamped] = await record(ddim(conditional, { ...options, respacing: 'ddim4' }));
    expect(open!.predXstart.some((value) => Math.abs(value) > 1.05)).toBe(true);
    expect(clamped!.predXstart).toEqual(open!.predXstart.map((value) => Math.min(1, Math.max(-1, value))));
  });

  test('with a dynamic threshold is scaled by the quantile of its own magnitudes', async () => {
    const [open] = await raw();
    for (const quantile of [0.6, 0.95, 1]) {
      const run = ddim(conditional, { ...options, respacing: 'ddim4', dynamicThreshold: quantile });
      const [found] = await record(run);
      const size = pictures.length / 2;
      const expected = new Float64Array(pictures.length);
      for (const image of [0, 1]) {
        const own = open!.predXstart.subarray(image * size, (image + 1) * size);
        const sorted = [...own].map(Math.abs).sort((a, b) => a - b);
        const at = quantile * (size - 1);
        const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
        const s = Math.max(1, low + (high - low) * (at - Math.floor(at)));
        own.forEach((value, i) => {
          expected[image * size + i] = Math.min(s, Math.max(-s, value)) / s;
        });
      }
      expectClose(found!.predXstart, expected, 1e-6);
    }
  });

  test('goes through the caller’s function, after the clamp', async () => {
    const seen: number[] = [];
    const halved = await record(
      ddim(conditional, {
        ...options,
        respacing: 'ddim4',
        denoisedFn: (x) => {
          seen.push(Math.max(...x.map(Math.abs)));
          return x.map((value) => value / 2);
        },
      }),
    );
    expect(seen.length).toBe(4);
    expect(Math.max(...seen)).toBeLessThanOrEqual(1);
    const [plain] = await record(ddim(conditional, { ...options, respacing: 'ddim4' }));
    expectClose(
      halved[0]!.predXstart,
      plain!.predXstart.map((value) => value / 2),
      1e-6,
    );
    const same = await last(ddim(conditional, { ...options, respacing: 'ddim4', denoisedFn: (x) => x }));
    expectClose(same, await last(ddim(conditional, { ...options, respacing: 'ddim4' })), 1e-6);
  });

  test('under guidance of the mean is not changed twice by the function', async () => {
    const guided = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 2 });
    const run = { ...options, respacing: '4', scale: 4 };
    const same = await last(ddpm(guided, { ...run, denoisedFn: (x) => x }));
    expectClose(same, await last(ddpm(guided, run)), 2e-6);
    guided.dispose();
  });

  test('of a model that predicts v', async () => {
    const diffusion = { ...unet.config.diffusion!, mean_type: 'v' } as const;
    const denoiser = new Denoiser(runtime, {
      unet: reconfigured(unet, { diffusion }),
      guidance: noGuidance({ conditional: true }),
      batch: 2,
    });
    const process = processOf(denoiser, { respacing: 'ddim4' });
    const start = noiseOf(STREAM.start, 0, 4);
    const run = { ...options, respacing: 'ddim4', clipDenoised: false };
    for (const sampler of [ddim, ddpm]) {
      let x = start;
      for (const { t, output, predXstart, sample } of await record(sampler(denoiser, run))) {
        const [a, s] = [process.sqrt_alphas_cumprod[t]!, process.sqrt_one_minus_alphas_cumprod[t]!];
        expectClose(
          predXstart,
          zip((xt, v) => a * xt - s * v, x, output),
          2e-6,
        );
        if (sampler === ddim) {
          // eps = alpha * v + sigma * x_t, the other half of the rotation (Salimans & Ho 2022, appendix D).
          const abar = process.alphas_cumprod_prev[t]!;
          const expected = zip(
            (x0, xt, v) => Math.sqrt(abar) * x0 + Math.sqrt(1 - abar) * (a * v + s * xt),
            predXstart,
            x,
            output,
          );
          expectClose(sample, expected, 1e-5);
        }
        x = sample;
      }
    }
    denoiser.dispose();
  });
});

describe('two stages', () => {
  const args = unetArguments({
    image_size: 8,
    in_channels: 1,
    model_channels: 32,
    out_channels: 2,
    num_res_blocks: 1,
    attention_resolutions: [2],
    channel_mult: [1, 2],
    use_scale_shift_norm: true,
  });
  const config = {
    kind: 'super_resolution',
    model: args,
    diffusion: { ...unet.config.diffusion!, noise_schedule: 'linear' },
    classes: null,
    nullClass: null,
  } as const;
  const parameters = Object.fromEntries(
    modelParameters(config).map(({ name, shape: s }, i) => [
      name,
      {
        shape: s,
        data: values(
          s.reduce((a, b) => a * b, 1),
          i,
          0.08,
        ),
      },
    ]),
  );
  const upsampler = buildModel(runtime, checkpointOf(parameters), config);
  if (!upsampler.isSuperResolution()) throw new Error('expected a super-resolution model');
  const lowRes = { height: 4, width: 4 };
  const small = values(2 * 4 * 4, 77);

  test('the second sees x_t and the smaller picture', async () => {
    const denoiser = new Denoiser(runtime, { unet: upsampler, guidance: noGuidance(), batch: 2, lowRes });
    const start = noiseOf(STREAM.start, 0, 6);
    const run = { respacing: 'ddim3', start, lowRes: small };
    let x = start;
    for (const { timestep, output, sample } of await record(ddim(denoiser, run))) {
      const told = timestepEmbedding([timestep, timestep], args.model_channels);
      const { out } = await evaluate(runtime, upsampler.weights, (e) => {
        const inputs = {
          x: e.input('x', shape, x),
          lowRes: e.input('low', { ...shape, h: 4, w: 4 }, small),
          timesteps: e.input('t', { n: 2, h: 1, w: 1, c: args.model_channels }, told),
          labels: null,
        };
        e.output('out', superResolution.forward(e, args, inputs));
      });
      const mean = Float32Array.from(
        { length: x.length },
        (_, i) => out![Math.floor(i / PICTURE) * 2 * PICTURE + (i % PICTURE)]!,
      );
      expectClose(output, mean, 2e-6);
      x = sample;
    }
    const other = await last(ddim(denoiser, { ...run, lowRes: small.map((value) => -value) }));
    expect(other).not.toEqual(x);
    await expect(last(ddim(denoiser, { respacing: 'ddim3', start }))).rejects.toThrow('needs the smaller pictures');
    denoiser.dispose();
  });

  test('a size of the smaller picture is asked for, and only where it belongs', () => {
    const guidance = noGuidance();
    expect(() => new Denoiser(runtime, { unet: upsampler, guidance, batch: 1 })).toThrow('needs the size');
    expect(() => new Denoiser(runtime, { unet, guidance, batch: 1, lowRes })).toThrow(
      'it is no super-resolution model',
    );
  });
});

describe('the check for finite numbers', () => {
  const poisoned = (name: string, value: number) => {
    const { tensors } = randomWeights(modelParameters(unet.config));
    const tensor = tensors.get(name)!;
    const view = new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.bytes.byteLength);
    view.setFloat32(tensor.bytes.byteLength - 4, value, true);
    return new Model(unet.config, new Weights(runtime, tensors)) as typeof unet;
  };

  test.each([
    ['NaN', 'input_blocks.1.0.in_layers.2.weight', Number.NaN],
    ['infinity', 'middle_block.0.out_layers.3.bias', Number.POSITIVE_INFINITY],
  ])('names the layer and the step of the first %s', async (_what, name, value) => {
    const sick = poisoned(name, value);
    const denoiser = new Denoiser(runtime, { unet: sick, guidance: noGuidance({ conditional: true }), batch: 2 });
    const run = last(ddim(denoiser, { ...options, checkFinite: true }));
    await expect(run).rejects.toThrow(NonFiniteError);
    await expect(run).rejects.toThrow(name.replace(/\.(weight|bias)$/, ''));
    await expect(run).rejects.toThrow('in step 1 of 5 (timestep 800)');
    denoiser.dispose();
    sick.dispose();
  });

  test('finds a later step, and nothing in a healthy run', async () => {
    const run = { ...options, respacing: 'ddim4' };
    const checked = await last(ddim(conditional, { ...run, checkFinite: true }));
    expectClose(checked, await last(ddim(conditional, run)), 1e-6);
    const stateBefore = (index: number) =>
      index === 2 ? pictures.map((x, i) => (i === 9 ? Number.NaN : x)) : pictures;
    await expect(last(ddim(conditional, { ...run, checkFinite: true, stateBefore }))).rejects.toThrow('in step 3 of 4');
  });
});
