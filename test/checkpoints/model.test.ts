import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  checkTensors,
  classifierArguments,
  modelParameters,
  readConfig,
  unetArguments,
} from '../../src/checkpoints/config.ts';
import { type Checkpoint, readSafetensors } from '../../src/checkpoints/safetensors.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';

const unetFile = readSafetensors(readFileSync(UNET_FILE));
const described = (config: unknown): Checkpoint => ({
  tensors: new Map(),
  metadata: new Map([['config', typeof config === 'string' ? config : JSON.stringify(config)]]),
});
const unetJson = JSON.parse(unetFile.metadata.get('config')!);

describe('a checkpoint describes itself', () => {
  test.each([UNET_FILE, CLASSIFIER_FILE])('%s holds just the tensors its description asks for', (path) => {
    const checkpoint = readSafetensors(readFileSync(path));
    const parameters = modelParameters(readConfig(checkpoint));
    checkTensors(checkpoint, parameters);
    expect(parameters.length).toBe(checkpoint.tensors.size);
    const count = parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    expect(count).toBe(path === UNET_FILE ? 1371650 : 561546);
  });

  test('what it leaves out has the original’s default', () => {
    const { model, diffusion, nullClass, classes } = readConfig(unetFile);
    expect(model).toMatchObject({ conv_resample: true, num_heads_upsample: -1 });
    expect(diffusion).toEqual({
      steps: 1000,
      noise_schedule: 'linear',
      var_type: 'learned_range',
      mean_type: 'epsilon',
      rescale_timesteps: false,
    });
    expect(nullClass).toBe(10);
    expect(classes![9]).toBe('Ankle boot');
  });

  test.each<[string, unknown, RegExp]>([
    ['nothing', undefined, /does not describe its model/],
    ['no JSON', '{', /not JSON/],
    [
      'another kind',
      { ...unetJson, kind: 'gan' },
      /config.kind should be "unet" or "classifier" or "super_resolution", found "gan"/,
    ],
    ['an unknown argument', { ...unetJson, model: { ...unetJson.model, wings: 2 } }, /model.wings is not an argument/],
    [
      'a wrong type',
      { ...unetJson, model: { ...unetJson.model, channel_mult: '1,2' } },
      /model.channel_mult should be a list/,
    ],
    [
      'a missing argument',
      { ...unetJson, model: { ...unetJson.model, image_size: undefined } },
      /model.image_size should be/,
    ],
    [
      'an unknown schedule',
      { ...unetJson, diffusion: { noise_schedule: 'wild' } },
      /diffusion.noise_schedule should be "linear" or "cosine"/,
    ],
    ['classes that are no names', { ...unetJson, classes: [1] }, /classes should be a list of names/],
  ])('%s is refused', (_what, config, message) => {
    const checkpoint = config === undefined ? { tensors: new Map(), metadata: new Map() } : described(config);
    expect(() => readConfig(checkpoint)).toThrow(message);
  });
});

describe('tensors that do not fit', () => {
  const parameters = modelParameters(readConfig(unetFile));

  test('are all named, with what was expected and what was found', () => {
    const tensors = new Map(unetFile.tensors);
    tensors.delete('time_embed.0.bias');
    tensors.set('extra.weight', unetFile.tensors.get('out.2.bias')!);
    tensors.set('out.0.weight', { ...unetFile.tensors.get('out.0.weight')!, shape: [16, 2] });
    const check = () => checkTensors({ tensors, metadata: new Map() }, parameters);
    expect(check).toThrow('time_embed.0.bias is missing');
    expect(check).toThrow('out.0.weight should have shape [32], found [16, 2]');
    expect(check).toThrow('extra.weight is unexpected');
  });

  test('a long list is cut', () => {
    expect(() => checkTensors({ tensors: new Map(), metadata: new Map() }, parameters)).toThrow(/and \d+ more$/);
  });

  test('integers are no parameters', () => {
    const tensors = new Map(unetFile.tensors).set('out.2.bias', { dtype: 'I32', shape: [2], bytes: new Uint8Array(8) });
    expect(() => checkTensors({ tensors, metadata: new Map() }, parameters)).toThrow(
      'out.2.bias should hold floating-point',
    );
  });
});

describe('guided-diffusion’s own flags', () => {
  const base = {
    image_size: 64,
    in_channels: 3,
    model_channels: 192,
    out_channels: 6,
    num_res_blocks: 3,
    attention_resolutions: [2, 4, 8],
    channel_mult: [1, 2, 3, 4],
    num_classes: 1000,
    num_head_channels: 64,
    use_scale_shift_norm: true,
    resblock_updown: true,
    use_new_attention_order: true,
  };

  test('the 64 x 64 model has the parameters that its authors publish', () => {
    const parameters = modelParameters({ kind: 'unet', model: unetArguments(base) });
    expect(parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(295904454);
  });

  test('what changes nothing at inference may stand there', () => {
    expect(() => unetArguments({ ...base, dropout: 0.1, use_checkpoint: true, use_fp16: true, dims: 2 })).not.toThrow();
    expect(() =>
      classifierArguments({ ...base, num_classes: undefined, pool: 'attention', out_channels: 1000 }),
    ).toThrow('num_classes');
  });
});
