import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { modelParameters } from '../../src/checkpoints/config.ts';
import { type ModelKind, parseFlags } from '../../src/checkpoints/flags.ts';
import { OptionError } from '../../src/runtime/errors.ts';

interface Official {
  readonly class_name: string;
  readonly flags: Readonly<Record<string, string | number | boolean>>;
  readonly constructor: Readonly<Record<string, unknown>>;
  readonly timesteps: { steps: number; noise_schedule: string; learn_sigma: boolean } | null;
  readonly parameters: number;
  readonly tensors: number;
  readonly state_dict_sha256: string;
}

const official = Object.entries(
  JSON.parse(readFileSync(new URL('../golden/official_models.json', import.meta.url), 'utf8')),
) as [string, Official][];

const KINDS: Readonly<Record<string, ModelKind>> = {
  UNetModel: 'unet',
  SuperResModel: 'super_resolution',
  EncoderUNetModel: 'classifier',
};

const asText = (flags: Official['flags']): string =>
  Object.entries(flags)
    .map(([name, value]) => `--${name} ${value === true ? 'True' : value === false ? 'False' : value}`)
    .join(' ');

describe('the released models', () => {
  test.each(official)('%s: arguments, names, shapes and number of parameters', (_id, model) => {
    const kind = KINDS[model.class_name]!;
    const flags = parseFlags(asText(model.flags));
    expect(flags.kinds).toEqual([kind]);
    const config = flags.config(kind);
    const { dropout: _d, use_fp16: _f, use_checkpoint: _c, ...expected } = model.constructor as Record<string, unknown>;
    expect(config.model).toMatchObject(expected);
    if (model.timesteps) {
      const { steps, noise_schedule, learn_sigma } = model.timesteps;
      expect(config.diffusion).toMatchObject({
        steps,
        noise_schedule,
        var_type: learn_sigma ? 'learned_range' : 'fixed_large',
      });
    }

    const parameters = modelParameters(config);
    expect(parameters.length).toBe(model.tensors);
    expect(parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(model.parameters);
    const lines = parameters.map(({ name, shape }) => `${name} ${shape.join()}\n`).join('');
    expect(createHash('sha256').update(lines).digest('hex')).toBe(model.state_dict_sha256);
  });
});

describe('a line of flags', () => {
  test('may speak of a U-Net and its classifier', () => {
    const flags = parseFlags(
      '--image_size 64 --num_channels 192 --class_cond True --classifier_depth 4 --classifier_path c.pt --batch_size 4',
    );
    expect(flags.kinds).toEqual(['unet', 'classifier']);
    expect(flags.config('unet').model).toMatchObject({ model_channels: 192, num_classes: 1000, num_res_blocks: 2 });
    expect(flags.config('classifier').model).toMatchObject({ num_res_blocks: 4, pool: 'attention', num_heads: 1 });
    expect([...flags.others]).toEqual([
      ['classifier_path', 'c.pt'],
      ['batch_size', '4'],
    ]);
  });

  test('has the scripts’ defaults for what it leaves out', () => {
    const { config, kinds } = parseFlags('');
    expect(kinds).toEqual(['unet']);
    expect(config('unet')).toEqual({
      kind: 'unet',
      classes: null,
      nullClass: null,
      diffusion: {
        steps: 1000,
        noise_schedule: 'linear',
        var_type: 'fixed_large',
        mean_type: 'epsilon',
        rescale_timesteps: false,
      },
      model: {
        image_size: 64,
        in_channels: 3,
        model_channels: 128,
        out_channels: 3,
        num_res_blocks: 2,
        attention_resolutions: [4, 8],
        channel_mult: [1, 2, 3, 4],
        conv_resample: true,
        num_classes: null,
        num_heads: 4,
        num_head_channels: -1,
        num_heads_upsample: -1,
        use_scale_shift_norm: true,
        resblock_updown: false,
        use_new_attention_order: false,
        rescale_residual: false,
      },
    });
  });

  test('is read as a shell and argparse read it', () => {
    const { config } = parseFlags(
      `--image_size=96 \\\n --channel_mult "1, 2" --attention_resolutions '48,200' --learn_sigma yes --learn_sigma 0`,
    );
    expect(config('unet').model).toMatchObject({
      image_size: 96,
      channel_mult: [1, 2],
      attention_resolutions: [2],
      out_channels: 3,
    });
    expect(parseFlags('--image_size 64 --channel_mult ""').config('unet').model.channel_mult).toEqual([1, 2, 3, 4]);
  });

  test('heads of the upward half, and predict_xstart', () => {
    const { config } = parseFlags('--num_heads_upsample 8 --predict_xstart True --rescale_timesteps t');
    expect(config('unet').model.num_heads_upsample).toBe(8);
    expect(config('unet').diffusion).toMatchObject({ mean_type: 'start_x', rescale_timesteps: true });
  });

  test.each<[string, RegExp]>([
    ['--image_size 96', /--image_size should be 64, 128, 256, 512, found 96; for another size of a U-Net/],
    ['--large_size 128', /--large_size should be 64, 256, 512, found 128/],
    ['--large_size 256 --channel_mult 1,2', /--channel_mult is no flag of a super-resolution model/],
    ['--num_channel 4', /--num_channel is no flag of guided-diffusion; did you mean --num_channels\?/],
    ['--wings 2', /--wings is no flag of guided-diffusion; known are --image_size, /],
    ['--num_channels', /--num_channels lacks its value/],
    ['--class_cond --num_channels 3', /--class_cond lacks its value/],
    ['64', /pairs "--name value", found "64"/],
    ['--num_channels 1.5', /--num_channels should be a whole number from 1 on, found "1.5"/],
    ['--num_heads 0', /--num_heads should be a whole number from 1 on, found "0"/],
    ['--num_head_channels -2', /from 1 on, or -1, found "-2"/],
    ['--class_cond maybe', /--class_cond should be True or False, found "maybe"/],
    ['--dropout high', /--dropout should be a number/],
    ['--attention_resolutions 16,,8', /--attention_resolutions should be whole numbers/],
    ['--channel_mult 0.5,1', /--channel_mult should be whole numbers/],
    ['--noise_schedule sigmoid', /--noise_schedule should be linear or cosine/],
    ['--classifier_pool max', /--classifier_pool should be attention or adaptive or spatial or spatial_v2/],
    [
      '--num_channels 100',
      /these flags make no model: level 0 has 100 channels \(1 times 100\); its norms need a multiple of 32/,
    ],
    ['--num_head_channels 96', /level 3 has 512 channels .* do not divide into heads of 96/],
    ['--channel_mult "1,2', /a quote is not closed/],
  ])('%s is refused', (text, message) => {
    const read = () => {
      const flags = parseFlags(text);
      for (const kind of flags.kinds) flags.config(kind);
    };
    expect(read).toThrow(OptionError);
    expect(read).toThrow(message);
  });
});
