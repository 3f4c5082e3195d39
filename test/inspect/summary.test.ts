import { describe, expect, test } from 'vitest';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { shapedModel, summarize, summarizeStep } from '../../src/inspect/summary.ts';

const ADM_256 = `--image_size 256 --attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000
  --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2
  --resblock_updown True --use_scale_shift_norm True --classifier_depth 2`;

describe('a small U-Net, by hand', () => {
  const { config } = (() => {
    const flags = parseFlags(
      '--image_size 64 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --attention_resolutions 64 --num_heads 2 --use_scale_shift_norm True',
    );
    return { config: flags.config('unet') };
  })();
  const { layers, multiplyAdds, parameters } = summarize(config, { batch: 2, height: 8, width: 4 });
  const of = (name: string) => layers.find((layer) => layer.name === name)!;
  const pixels = 2 * 8 * 4;

  test('multiply-adds', () => {
    expect(of('input_blocks.0.0').multiplyAdds).toBe(pixels * 9 * 3 * 32);
    expect(of('input_blocks.1.0').multiplyAdds).toBe(2 * pixels * 9 * 32 * 32);
    // q, k and v, the two products of attention, and the projection.
    expect(of('input_blocks.1.1').multiplyAdds).toBe(pixels * 32 * 96 + 2 * pixels * 32 * 32 + pixels * 32 * 32);
    // A 1 x 1 convolution on the skip path.
    expect(of('output_blocks.0.0').multiplyAdds).toBe(pixels * (9 * 64 * 32 + 9 * 32 * 32 + 64 * 32));
    expect(of('time_embed').multiplyAdds).toBe(2 * (32 * 128 + 128 * 128));
    expect(multiplyAdds).toBe(layers.reduce((sum, layer) => sum + layer.multiplyAdds, 0));
  });

  test('parameters', () => {
    expect(of('input_blocks.0.0').parameters).toBe(9 * 3 * 32 + 32);
    expect(of('input_blocks.1.0').parameters).toBe(2 * (9 * 32 * 32 + 32) + 4 * 32 + 128 * 64 + 64);
    expect(parameters).toBe(layers.reduce((sum, layer) => sum + layer.parameters, 0));
  });

  test('shapes and words', () => {
    expect(of('input_blocks.1.1')).toMatchObject({
      what: 'attention, 2 heads of 16',
      shape: { n: 2, h: 8, w: 4, c: 32 },
    });
    expect(of('out').shape).toEqual({ n: 2, h: 8, w: 4, c: 3 });
  });
});

describe('the 256 x 256 model and its classifier', () => {
  const flags = parseFlags(ADM_256);
  const [unet, classifier] = [shapedModel(flags.config('unet')), shapedModel(flags.config('classifier'))];

  test('are planned without a device', () => {
    const step = summarizeStep(unet, classifier);
    // About 1.12 T for the U-Net, the figure that the literature gives for ADM, and three passes of the classifier.
    expect(step.multiplyAdds).toBeGreaterThan(1.2e12);
    expect(step.multiplyAdds).toBeLessThan(1.4e12);
    // Every parameter once, and what the gradient needs transposed a second time.
    expect(step.weightBytes).toBeGreaterThan(4 * (553838086 + 54096360));
    expect(step.activationBytes).toBeLessThan(1.3 * step.liveBytes);
  });

  test('a batch of 4 takes four times the activations, and no more weights', () => {
    const [one, four] = [summarizeStep(unet, null), summarizeStep(unet, null, { batch: 4 })];
    expect(four.weightBytes).toBe(one.weightBytes);
    expect(four.multiplyAdds).toBe(4 * one.multiplyAdds);
    expect(four.liveBytes / one.liveBytes).toBeGreaterThan(3.8);
    expect(four.liveBytes / one.liveBytes).toBeLessThan(4.2);
  });
});

describe('the classifier of the 64 x 64 model, eight pictures at once, within 200 MB', () => {
  const config = parseFlags(
    `--image_size 64 --classifier_depth 4 --attention_resolutions 32,16,8 --num_head_channels 64 --resblock_updown True
     --use_scale_shift_norm True`,
  ).config('classifier');
  const gradient = (memoryBudget?: number) => summarize(config, { batch: 8, memoryBudget }).plans[1]!;
  const [plain, within] = [gradient(), gradient(200e6)];

  test('takes that, where it took more than twice as much', () => {
    expect(plain.activationBytes).toBeGreaterThan(500e6);
    expect(plain.recomputed).toBe(0);
    expect(within.activationBytes).toBeLessThanOrEqual(200e6);
    expect(within.problem).toBeNull();
  });

  test('for the dispatches that it states, and a fifth more work', () => {
    expect(within.recomputed).toBeGreaterThan(0);
    expect(within.dispatches).toBe(plain.dispatches + within.recomputed);
    expect(within.flops / plain.flops).toBeGreaterThan(1.1);
    expect(within.flops / plain.flops).toBeLessThan(1.25);
    expect(within.weightBytes).toBe(plain.weightBytes);
    expect(within.pipelines).toBe(plain.pipelines);
  });

  test('a budget that cannot be met is said to be so, and the figures are those without', () => {
    const impossible = gradient(20e6);
    expect(impossible.problem).toMatch(/memoryBudget is 20,000,000 bytes, and no way was found/);
    expect({ ...impossible, problem: null }).toEqual(plain);
  });
});
