import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type ModelConfig, modelParameters } from '../../src/checkpoints/config.ts';
import { describeCheckpoint } from '../../src/checkpoints/describe.ts';
import { checkModel, configOf } from '../../src/checkpoints/fit.ts';
import { type ModelKind, parseFlags } from '../../src/checkpoints/flags.ts';
import { inferConfig } from '../../src/checkpoints/infer.ts';
import { openCheckpoint } from '../../src/checkpoints/read.ts';
import { memorySource } from '../../src/checkpoints/source.ts';
import { type TensorInfo, tensorBytes } from '../../src/checkpoints/stored.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';

const tensorsOf = (config: ModelConfig): Map<string, TensorInfo> =>
  new Map(modelParameters(config).map(({ name, shape }) => [name, { dtype: 'F32', shape }]));

function byFlags(text: string, kind?: ModelKind): ModelConfig {
  const flags = parseFlags(text);
  return flags.config(kind ?? flags.kinds[0]!);
}

const official = Object.entries(
  JSON.parse(readFileSync(new URL('../golden/official_models.json', import.meta.url), 'utf8')),
) as [string, { class_name: string; flags: Record<string, unknown> }][];

describe('a released model is recognised by its shapes', () => {
  test.each(official)('%s', (name, { flags }) => {
    const text = Object.entries(flags)
      .map(([flag, value]) => `--${flag} ${value === true ? 'True' : value === false ? 'False' : value}`)
      .join(' ');
    const config = byFlags(text);
    const inferred = inferConfig(tensorsOf(config));
    expect(inferred.config).toEqual(config);
    expect(inferred.assumptions.map(({ reason }) => reason).join()).toContain(name);
  });
});

describe('others are told as far as shapes tell', () => {
  const small = '--num_channels 64 --attention_resolutions 16 --image_size 32 --channel_mult 1,2,2';

  test.each([
    ['plain', small],
    ['with classes and a learned variance', `${small} --class_cond True --learn_sigma True`],
    ['resampling inside residual blocks', `${small} --resblock_updown True --num_res_blocks 1`],
    ['no scale and shift', `${small} --use_scale_shift_norm False --num_res_blocks 4`],
    ['one level', '--num_channels 96 --image_size 16 --channel_mult 2 --attention_resolutions 16'],
    [
      'attention nowhere but in the middle',
      '--num_channels 32 --image_size 32 --channel_mult 1,1 --attention_resolutions 99',
    ],
    ['super-resolution', '--large_size 64 --small_size 16 --num_channels 32 --num_res_blocks 1'],
    ['super-resolution, learned', '--large_size 64 --small_size 16 --num_channels 32 --learn_sigma True'],
    ['classifier', '--image_size 128 --classifier_width 64 --classifier_attention_resolutions 8'],
    ['classifier, other pools', '--image_size 64 --classifier_width 64 --classifier_pool adaptive'],
    ['classifier, spatial pool', '--image_size 64 --classifier_width 64 --classifier_pool spatial'],
    ['classifier, spatial pool with a norm', '--image_size 64 --classifier_width 64 --classifier_pool spatial_v2'],
    [
      'classifier without resampling blocks',
      '--image_size 64 --classifier_width 64 --classifier_resblock_updown False',
    ],
  ])('%s', (_what, flags) => {
    const config = byFlags(flags);
    const { config: found, assumptions } = inferConfig(tensorsOf(config));
    const open = new Set(assumptions.flatMap(({ argument }) => argument.split(', ')));
    for (const hidden of ['num_heads', 'num_head_channels', 'num_heads_upsample', 'image_size']) open.add(hidden);
    expect(found.kind).toBe(config.kind);
    const told = (model: object) => Object.fromEntries(Object.entries(model).filter(([name]) => !open.has(name)));
    expect(told(found.model)).toEqual(told(config.model));
    expect(Object.keys(told(found.model)).length).toBeGreaterThan(7);
    expect(modelParameters(found)).toEqual(modelParameters(config));
  });

  test('the shipped models: what they say of themselves and what their shapes tell agree', async () => {
    for (const path of [UNET_FILE, CLASSIFIER_FILE]) {
      const file = await openCheckpoint(memorySource(readFileSync(path)));
      const { config, from } = configOf(file);
      expect(from).toBe('metadata');
      expect(modelParameters(inferConfig(file.tensors).config)).toEqual(modelParameters(config));
    }
  });

  test('what no shape tells is listed, with the flag that would tell it', () => {
    const { assumptions } = inferConfig(tensorsOf(byFlags(`${small} --class_cond True`)));
    expect(assumptions.map(({ argument, flag }) => [argument, flag])).toEqual([
      ['num_heads', '--num_heads'],
      ['use_new_attention_order', '--use_new_attention_order'],
      ['image_size', '--image_size'],
      ['noise_schedule', '--noise_schedule'],
      ['diffusion_steps', '--diffusion_steps'],
      ['null_class', ''],
    ]);
  });

  test('shapes of two models are said to be so', () => {
    const { config, assumptions } = inferConfig(
      tensorsOf(byFlags('--large_size 64 --small_size 16 --num_channels 32 --learn_sigma True')),
    );
    expect(config.kind).toBe('super_resolution');
    expect(assumptions[0]).toMatchObject({ argument: 'in_channels' });
    expect(assumptions[0]!.reason).toContain('of a unet');
  });

  test.each<[string, (tensors: Map<string, TensorInfo>) => void, RegExp]>([
    ['no timestep embedding', (t) => t.delete('time_embed.0.weight'), /time_embed.0.weight is missing/],
    [
      'one tensor less',
      (t) => t.delete('output_blocks.3.0.out_layers.3.bias'),
      /differs at output_blocks.3.0.out_layers.3.bias/,
    ],
    ['one tensor more', (t) => t.set('extra', { dtype: 'F32', shape: [1] }), /at extra, expected nothing, found \[1\]/],
    [
      'an embedding of another width',
      (t) => t.set('middle_block.0.emb_layers.1.weight', { dtype: 'F32', shape: [256, 99] }),
      /takes 99 channels of an embedding that has 256/,
    ],
    ['nothing at all', (t) => t.clear(), /time_embed.0.weight is missing/],
  ])('%s is no model', (_what, change, message) => {
    const tensors = tensorsOf(byFlags(small));
    change(tensors);
    expect(() => inferConfig(tensors)).toThrow(CheckpointError);
    expect(() => inferConfig(tensors)).toThrow(message);
  });

  test('block numbers in the thousands take no time', () => {
    const tensors = tensorsOf(byFlags(small));
    tensors.set('input_blocks.9999.0.in_layers.0.weight', { dtype: 'F32', shape: [64] });
    tensors.set('output_blocks.9999.0.in_layers.0.weight', { dtype: 'F32', shape: [64] });
    const started = performance.now();
    expect(() => inferConfig(tensors)).toThrow(CheckpointError);
    expect(performance.now() - started).toBeLessThan(1000);
  });
});

describe('a mismatch names tensor, both shapes, and the flag that would explain it', () => {
  const right =
    '--image_size 64 --num_channels 192 --num_res_blocks 3 --class_cond True --learn_sigma True --attention_resolutions 32,16,8 --resblock_updown True';
  const tensors = tensorsOf(byFlags(right));

  test.each<[string, string, RegExp]>([
    [
      'the width',
      right.replace('192', '128'),
      /time_embed.0.weight should have shape \[512, 128\], found \[768, 192\] \(--num_channels 192 would explain it\)/,
    ],
    ['the depth', right.replace('blocks 3', 'blocks 2'), /\(--num_res_blocks 3 would explain it\)/],
    [
      'the classes',
      right.replace('--class_cond True', ''),
      /label_emb.weight is unexpected, of shape \[1000, 768\] \(--class_cond True would explain it\)/,
    ],
    [
      'the variance',
      right.replace('--learn_sigma True', ''),
      /out.2.weight should have shape \[3, 192, 3, 3\], found \[6, 192, 3, 3\] \(--learn_sigma True would/,
    ],
    [
      'the attention',
      right.replace('32,16,8', '16,8'),
      /input_blocks.5.1.norm.weight is unexpected|--attention_resolutions 32,16,8 would explain it/,
    ],
    ['the resampling', right.replace('updown True', 'updown False'), /--resblock_updown True would explain it/],
    [
      'the embedding',
      `${right} --use_scale_shift_norm False`,
      /emb_layers.1.weight should have shape \[192, 768\], found \[384, 768\] \(--use_scale_shift_norm True would/,
    ],
    ['the levels', `${right} --channel_mult 1,2,2,4`, /--channel_mult 1,2,3,4 would explain it/],
    [
      'width and classes',
      right.replace('192', '128').replace('--class_cond True', ''),
      /label_emb.weight is unexpected.* \(--num_channels 192 and --class_cond True together would explain it\)/,
    ],
  ])('%s', (_what, flags, message) => {
    const check = () => checkModel(tensors, byFlags(flags));
    expect(check).toThrow(CheckpointError);
    expect(check).toThrow(message);
  });

  test('another kind of model', () => {
    expect(() => checkModel(tensors, byFlags('--image_size 64 --classifier_depth 4'))).toThrow(
      /looks like a unet model/,
    );
  });

  test('what fits passes', () => {
    expect(() => checkModel(tensors, byFlags(right))).not.toThrow();
  });
});

describe('a description', () => {
  test('of a shipped model', async () => {
    const bytes = readFileSync(UNET_FILE);
    const found = describeCheckpoint(await openCheckpoint(memorySource(bytes)));
    expect(found).toMatchObject({
      format: 'safetensors',
      bytes: bytes.length,
      parameters: 1371650,
      problem: null,
      storage: [
        { dtype: 'F16', tensors: 65, bytes: 2724288 },
        { dtype: 'F32', tensors: 134, bytes: 38024 },
      ],
      model: { from: 'metadata', assumptions: [], config: { kind: 'unet', model: { image_size: 28 } } },
    });
    expect(found.tensors.reduce((sum, t) => sum + t.bytes, 0)).toBe(2724288 + 38024);
    const { demand, needs } = found.model!;
    // Matrices stay float16 on the device, padded to blocks.
    expect(demand.weightBytes).toBeGreaterThan(2 * 1371650);
    expect(demand.weightBytes).toBeLessThan(2.2 * 1371650);
    expect(demand.flops).toBeGreaterThan(1e8);
    expect(demand.activationBytes).toBeGreaterThan(0);
    expect(demand.largestBinding).toBeLessThanOrEqual(demand.weightBytes);
    expect(needs).toEqual(['a class for each picture, 0 to 10']);
  });

  test('of a released model by its flags, and of its demands', () => {
    const config = byFlags('--image_size 256 --classifier_depth 2', 'classifier');
    const tensors = tensorsOf(config);
    const file = {
      format: 'PyTorch zip',
      size: 216_000_000,
      metadata: new Map<string, string>(),
      tensors,
      read: () => Promise.reject(new Error('a description reads no values')),
      readInto: () => Promise.reject(new Error('a description reads no values')),
      close: async () => {},
    };
    const found = describeCheckpoint(file);
    expect(found.model?.from).toBe('shapes');
    expect(found.model?.config.model.image_size).toBe(256);
    // Weights of the forward pass, and transposed once more for the gradient.
    const stored = [...tensors.values()].reduce((sum, t) => sum + tensorBytes(t), 0);
    expect(found.model!.demand.weightBytes).toBeGreaterThan(1.8 * stored);
    expect(found.model!.demand.weightBytes).toBeLessThan(2.1 * stored);
    expect(describeCheckpoint(file, byFlags('--image_size 64 --classifier_depth 2', 'classifier'))).toMatchObject({
      model: null,
      problem: expect.stringContaining('--image_size 256'),
    });
  });

  test('of a file that is no model says so', async () => {
    const reference = readFileSync(new URL('../golden/checkpoints/small_odd_reference.safetensors', import.meta.url));
    const found = describeCheckpoint(await openCheckpoint(memorySource(reference)));
    expect(found.model).toBeNull();
    expect(found.problem).toContain('time_embed.0.weight is missing');
    expect(found.tensors.length).toBe(15);
  });
});
