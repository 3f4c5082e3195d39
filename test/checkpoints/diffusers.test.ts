import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { describeCheckpoint } from '../../src/checkpoints/describe.ts';
import { openDiffusers, readDiffusersConfig } from '../../src/checkpoints/diffusers.ts';
import { openModel } from '../../src/checkpoints/model.ts';
import { type OpenCheckpoint, openCheckpoint } from '../../src/checkpoints/read.ts';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { memorySource } from '../../src/checkpoints/source.ts';
import { openCheckpointFile } from '../../src/cli/checkpoint_files.ts';
import { evaluate } from '../../src/cli/verify/evaluate.ts';
import { timestepEmbedding } from '../../src/layers/embedding.ts';
import { window } from '../../src/layers/resample.ts';
import * as unet from '../../src/layers/unet.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { expectClose, testRuntime } from '../device.ts';

interface Case {
  readonly config: Record<string, unknown>;
  readonly tensors: [name: string, shape: number[]][];
  readonly t: number[];
  readonly labels: number[] | null;
  readonly out: number[];
}

/** Outputs of a PyTorch model in that layout; see make.py beside it. */
const cases = JSON.parse(readFileSync(new URL('../golden/diffusers/expected.json', import.meta.url), 'utf8')) as Record<
  'plain' | 'with_classes',
  Case
>;

const formula = (seed: number, count: number) =>
  Float64Array.from({ length: count }, (_, i) => Math.sin(1.7 * i + seed));

/** The weights that make.py gives its model. @param rename older names, for example */
function weightsOf({ tensors }: Case, rename = (name: string) => name): Uint8Array {
  return writeSafetensors(
    Object.fromEntries(
      tensors.map(([name, shape], index) => {
        const count = shape.reduce((a, b) => a * b, 1);
        const fan = shape.slice(1).reduce((a, b) => a * b, 1);
        const spread = shape.length < 2 ? 0.1 : 1.5 / Math.sqrt(fan);
        const base = name.includes('norm') && name.endsWith('weight') ? 1 : 0;
        const data = Float32Array.from(formula(index, count), (value) => base + spread * value);
        return [rename(name), { dtype: 'F32' as const, shape, data }];
      }),
    ),
  );
}

const opened = async (golden: Case, more = {}, rename?: (name: string) => string): Promise<OpenCheckpoint> =>
  openDiffusers(
    await openCheckpoint(memorySource(weightsOf(golden, rename))),
    JSON.stringify({ ...golden.config, ...more }),
  );

const runtime = await testRuntime();

async function outputOf(file: OpenCheckpoint, { t, labels }: Case): Promise<Float32Array> {
  const model = openModel(runtime, file);
  if (!model.isUNet()) throw new Error('no U-Net');
  const args = model.config.model;
  try {
    const { out } = await evaluate(runtime, model.weights, (e) => {
      const x = Float32Array.from(formula(0.5, 2 * 3 * 8 * 8), (value) => 2 * value);
      const embedding = timestepEmbedding(t, args.model_channels, 10000, args.frequency_shift);
      const y = unet.forward(e, args, {
        x: e.input('x', { n: 2, c: 3, h: 8, w: 8 }, x),
        timesteps: e.input('timesteps', { n: 2, c: args.model_channels, h: 1, w: 1 }, embedding),
        labels: labels && e.words('labels', Uint32Array.from(labels)),
      });
      e.output('out', y);
    });
    return out!;
  } finally {
    model.dispose();
  }
}

describe('a model in that layout computes what PyTorch computed', () => {
  test('no padding in front when downsampling, sines first, eps 1e-6, one head', async () => {
    const file = await opened(cases.plain);
    expect(describeCheckpoint(file)).toMatchObject({
      format: 'diffusers, safetensors',
      problem: null,
      model: {
        config: {
          model: {
            norm_eps: 1e-6,
            downsample_padding: 0,
            frequency_shift: 1,
            attention_resolutions: [2],
            channel_mult: [1, 2, 2],
          },
        },
      },
    });
    expectClose(await outputOf(file, cases.plain), cases.plain.out, 1e-5);
  });

  test('classes, heads of 8, scale and shift, resampling inside residual blocks', async () => {
    expectClose(await outputOf(await opened(cases.with_classes), cases.with_classes), cases.with_classes.out, 1e-5);
  });

  test('older names of attention and residual blocks', async () => {
    const older = (name: string) =>
      name
        .replace('.to_q.', '.query.')
        .replace('.to_k.', '.key.')
        .replace('.to_v.', '.value.')
        .replace('.to_out.0.', '.proj_attn.')
        .replace('.time_emb_proj.', '.temb_proj.')
        .replace('.conv_shortcut.', '.nin_shortcut.');
    expectClose(await outputOf(await opened(cases.plain, {}, older), cases.plain), cases.plain.out, 1e-5);
  });

  test('each option that differs from ADM’s changes the result', async () => {
    for (const [name, value] of [
      ['norm_eps', 0.1],
      ['downsample_padding', 1],
      ['freq_shift', 0],
      ['flip_sin_to_cos', true],
      ['attention_head_dim', 8],
    ] as const) {
      const found = await outputOf(await opened(cases.plain, { [name]: value }), cases.plain);
      const off = Math.max(...found.map((v, i) => Math.abs(v - cases.plain.out[i]!)));
      expect(off, name).toBeGreaterThan(1e-4);
    }
  });
});

describe('what is not supported is listed', () => {
  test('all at once', () => {
    const config = {
      ...cases.plain.config,
      act_fn: 'mish',
      norm_num_groups: 16,
      mid_block_scale_factor: 1.41,
      down_block_types: ['DownBlock2D', 'AttnSkipDownBlock2D', 'AttnDownBlock2D'],
      downsample_type: 'resnet',
      sample_size: [8, 16],
    };
    const scheduler = { beta_schedule: 'scaled_linear', prediction_type: 'flow' };
    const read = () => readDiffusersConfig(JSON.stringify(config), JSON.stringify(scheduler));
    expect(read).toThrow(CheckpointError);
    for (const said of [
      'act_fn "mish" (supported: "silu", "swish")',
      'norm_num_groups 16 (supported: 32)',
      'mid_block_scale_factor 1.41',
      'down block "AttnSkipDownBlock2D"',
      'level 2, AttnDownBlock2D downward and UpBlock2D upward',
      'downsample_type "resnet" with upsample_type "conv"',
      'sample_size [8,16]',
      'the scheduler’s beta_schedule "scaled_linear"',
      'the scheduler’s prediction_type "flow"',
    ]) {
      expect(read).toThrow(said);
    }
  });

  test.each<[string, string, RegExp]>([
    [
      'another class',
      '{"_class_name":"UNet2DConditionModel"}',
      /UNet2DModel is supported; this is "UNet2DConditionModel"/,
    ],
    ['no JSON', '{', /config.json is not JSON/],
    ['a list', '[]', /should be a JSON object/],
    ['no blocks', '{"_class_name":"UNet2DModel"}', /should list block_out_channels/],
    [
      'too few blocks',
      '{"_class_name":"UNet2DModel","block_out_channels":[32,32],"down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"]}',
      /2 widths, 1 down blocks and 1 up blocks/,
    ],
    ['a width of 40', JSON.stringify({ ...cases.plain.config, block_out_channels: [40, 40, 40] }), /multiple of 32/],
    ['a billion layers', JSON.stringify({ ...cases.plain.config, layers_per_block: 1e9 }), /num_res_blocks should be/],
  ])('%s', (_what, text, message) => {
    expect(() => readDiffusersConfig(text)).toThrow(CheckpointError);
    expect(() => readDiffusersConfig(text)).toThrow(message);
  });

  test('tensors that are missing, misshapen or too many, under their own names', async () => {
    await expect(opened(cases.plain, {}, (name) => name.replace('mid_block.attentions.0.to_k', 'x'))).rejects.toThrow(
      /mid_block.attentions.0.to_k.weight or mid_block.attentions.0.key.weight is missing.*x.weight has no place/,
    );
    await expect(opened(cases.plain, { num_class_embeds: 7 })).rejects.toThrow('class_embedding.weight is missing');
    await expect(opened(cases.plain, { in_channels: 1 })).rejects.toThrow(
      'conv_in.weight should have shape [32, 1, 3, 3], found [32, 3, 3, 3]',
    );
  });
});

test('the scheduler tells the process', () => {
  const text = JSON.stringify(cases.plain.config);
  const process = (json: object) => readDiffusersConfig(text, JSON.stringify(json)).config.diffusion;
  expect(readDiffusersConfig(text).config.diffusion).toBeNull();
  expect(
    process({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: 'linear',
      variance_type: 'fixed_large',
    }),
  ).toEqual({
    steps: 1000,
    noise_schedule: 'linear',
    var_type: 'fixed_large',
    mean_type: 'epsilon',
    rescale_timesteps: false,
  });
  expect(process({ beta_schedule: 'squaredcos_cap_v2', prediction_type: 'v_prediction' })).toMatchObject({
    noise_schedule: 'cosine',
    mean_type: 'v',
  });
  expect(() => process({ beta_start: 0.001 })).toThrow('the scheduler’s beta_start 0.001');
});

describe('a folder as the library saves it', () => {
  const root = mkdtempSync(join(tmpdir(), 'pilotwave-diffusers-'));
  afterAll(() => rmSync(root, { recursive: true }));

  test('config, tensors and scheduler are found', async () => {
    mkdirSync(join(root, 'unet'));
    mkdirSync(join(root, 'scheduler'));
    writeFileSync(join(root, 'unet', 'config.json'), JSON.stringify(cases.plain.config));
    writeFileSync(join(root, 'unet', 'diffusion_pytorch_model.safetensors'), weightsOf(cases.plain));
    writeFileSync(join(root, 'scheduler', 'scheduler_config.json'), '{"variance_type":"fixed_large"}');
    const file = await openCheckpointFile(join(root, 'unet'));
    const { model } = describeCheckpoint(file);
    expect(model!.config.diffusion).toMatchObject({ var_type: 'fixed_large', noise_schedule: 'linear' });
    expectClose(await outputOf(file, cases.plain), cases.plain.out, 1e-5);
  });
});

test('a window crops, pads and shifts, and its gradient is the window back', async () => {
  const x = Float32Array.from({ length: 2 * 5 * 3 * 4 }, (_, i) => i + 1);
  const at = (n: number, c: number, row: number, column: number) =>
    row < 0 || column < 0 || row >= 3 || column >= 4 ? 0 : x[((n * 5 + c) * 3 + row) * 4 + column]!;
  for (const [height, width, top, left] of [
    [5, 6, -1, -1],
    [2, 2, 1, 1],
    [3, 4, 1, -2],
  ] as const) {
    const upstream = Float32Array.from({ length: 2 * 5 * height * width }, (_, i) => Math.sin(i));
    const { y, dx } = await evaluate(runtime, { tensors: new Map(), metadata: new Map() }, (e) => {
      const input = e.input('x', { n: 2, c: 5, h: 3, w: 4 }, x);
      const result = window(e.graph, input, { height, width, top, left });
      e.output('y', result);
      e.gradient('dx', result, upstream, input);
    });
    const expected: number[] = [];
    const gradient = new Float64Array(x.length);
    for (let n = 0; n < 2; n++)
      for (let c = 0; c < 5; c++)
        for (let row = 0; row < height; row++)
          for (let column = 0; column < width; column++) {
            const [sy, sx] = [row + top, column + left];
            if (sy >= 0 && sx >= 0 && sy < 3 && sx < 4)
              gradient[((n * 5 + c) * 3 + sy) * 4 + sx]! += upstream[expected.length]!;
            expected.push(at(n, c, sy, sx));
          }
    expect([...y!]).toEqual(expected);
    expectClose(dx!, [...gradient], 1e-6);
  }
});
