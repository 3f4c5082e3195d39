/**
 * @file U-Nets in the layout of the diffusers library (`UNet2DModel`: a config.json and its tensors), as our U-Net.
 *
 * The architecture is ADM's where its options say so; names, the order of q, k and v, and the order of sine and cosine
 * differ, and are settled here. What has no counterpart is listed, all of it at once.
 */
import type { DiffusionArguments } from '../diffusion/gaussian_diffusion.ts';
import type { UNetArguments } from '../layers/unet.ts';
import { CheckpointError } from '../runtime/errors.ts';
import { checkArchitecture, type ModelConfig, modelParameters, unetArguments, writeConfig } from './config.ts';
import type { OpenCheckpoint } from './read.ts';
import { show } from './show.ts';
import { elementCount, type TensorInfo } from './stored.ts';

type Json = Readonly<Record<string, unknown>>;

function parse(text: string, what: string): Json {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`${what} is not JSON (${error instanceof Error ? error.message : error})`);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new CheckpointError(`${what} should be a JSON object, found ${show(json)}`);
  return json as Json;
}

/** Whether a config.json is one of diffusers' models. */
export function isDiffusersConfig(text: string): boolean {
  try {
    return '_class_name' in parse(text, 'config.json');
  } catch {
    return false;
  }
}

/** What the library takes where a config.json is silent. */
const DEFAULTS: Json = {
  center_input_sample: false,
  time_embedding_type: 'positional',
  freq_shift: 0,
  flip_sin_to_cos: true,
  mid_block_scale_factor: 1,
  downsample_padding: 1,
  downsample_type: 'conv',
  upsample_type: 'conv',
  act_fn: 'silu',
  attention_head_dim: 8,
  norm_num_groups: 32,
  attn_norm_num_groups: null,
  norm_eps: 1e-5,
  resnet_time_scale_shift: 'default',
  add_attention: true,
  class_embed_type: null,
  num_class_embeds: null,
  mid_block_type: 'UNetMidBlock2D',
  in_channels: 3,
  out_channels: 3,
  layers_per_block: 2,
};

/** Options that have one value here. */
const ONLY: Readonly<Record<string, readonly unknown[]>> = {
  center_input_sample: [false],
  time_embedding_type: ['positional'],
  mid_block_scale_factor: [1],
  mid_block_type: ['UNetMidBlock2D'],
  act_fn: ['silu', 'swish'],
  norm_num_groups: [32],
  attn_norm_num_groups: [null, 32],
  add_attention: [true],
  class_embed_type: [null],
  freq_shift: [0, 1],
  downsample_padding: [0, 1],
  downsample_type: ['conv', 'resnet'],
  upsample_type: ['conv', 'resnet'],
  resnet_time_scale_shift: ['default', 'scale_shift'],
};

/** A model in diffusers' layout: our configuration, and where our tensors come from. */
export interface DiffusersModel {
  readonly config: Extract<ModelConfig, { kind: 'unet' }>;
  /** The library puts sines first unless told to flip; our embedding has cosines first. */
  readonly sinesFirst: boolean;
}

/**
 * @param text config.json
 * @param scheduler scheduler_config.json, which tells the process; without it that is unknown
 * @throws CheckpointError with the list of everything that is not supported
 */
export function readDiffusersConfig(text: string, scheduler: string | null = null): DiffusersModel {
  const given = parse(text, 'config.json');
  if (given['_class_name'] !== 'UNet2DModel') {
    throw new CheckpointError(`of diffusers’ models UNet2DModel is supported; this is ${show(given['_class_name'])}`);
  }
  const json: Json = { ...DEFAULTS, ...given };
  const problems: string[] = [];
  for (const [name, allowed] of Object.entries(ONLY)) {
    if (allowed.includes(json[name])) continue;
    problems.push(`${name} ${show(json[name])} (supported: ${allowed.map(show).join(', ')})`);
  }
  const widths = json['block_out_channels'];
  const down = json['down_block_types'];
  const up = json['up_block_types'];
  const list = (value: unknown, type: string): value is never[] =>
    Array.isArray(value) && value.length > 0 && value.length <= 16 && value.every((item) => typeof item === type);
  if (!list(widths, 'number') || !list(down, 'string') || !list(up, 'string')) {
    throw new CheckpointError('config.json should list block_out_channels, down_block_types and up_block_types');
  }
  const attention = attentionLevels(down, up, widths.length, problems);
  if (json['downsample_type'] !== json['upsample_type'] && widths.length > 1)
    problems.push(`downsample_type ${show(json['downsample_type'])} with upsample_type ${show(json['upsample_type'])}`);
  const process = scheduler === null ? null : readScheduler(parse(scheduler, 'scheduler_config.json'), problems);
  const size = imageSize(json['sample_size'], 2 ** (widths.length - 1), problems);
  if (problems.length > 0) {
    throw new CheckpointError(`this UNet2DModel has what is not supported: ${problems.join('; ')}`);
  }

  const head = json['attention_head_dim'];
  const model: UNetArguments = unetArguments({
    image_size: size,
    in_channels: json['in_channels'],
    model_channels: widths[0],
    out_channels: json['out_channels'],
    num_res_blocks: json['layers_per_block'],
    attention_resolutions: attention,
    channel_mult: widths.map((width) => width / widths[0]!),
    num_classes: json['num_class_embeds'],
    num_heads: 1,
    num_head_channels: head === null ? -1 : head,
    use_scale_shift_norm: json['resnet_time_scale_shift'] === 'scale_shift',
    resblock_updown: json['downsample_type'] === 'resnet',
    use_new_attention_order: true,
    norm_eps: json['norm_eps'],
    downsample_padding: json['downsample_padding'],
    frequency_shift: json['freq_shift'],
  });
  const config = { kind: 'unet', model, diffusion: process, classes: null, nullClass: null } as const;
  checkArchitecture(config);
  return { config, sinesFirst: json['flip_sin_to_cos'] !== true };
}

/** Downsampling factors with attention. A level has it on both ways or on none. */
function attentionLevels(down: readonly string[], up: readonly string[], levels: number, problems: string[]): number[] {
  if (down.length !== levels || up.length !== levels) {
    throw new CheckpointError(
      `config.json has ${levels} widths, ${down.length} down blocks and ${up.length} up blocks; they should be as many`,
    );
  }
  const factors: number[] = [];
  for (let level = 0; level < levels; level++) {
    const [a, b] = [down[level]!, up[levels - 1 - level]!];
    if (!['DownBlock2D', 'AttnDownBlock2D'].includes(a)) problems.push(`down block ${show(a)}`);
    else if (!['UpBlock2D', 'AttnUpBlock2D'].includes(b)) problems.push(`up block ${show(b)}`);
    else if (a.startsWith('Attn') !== b.startsWith('Attn'))
      problems.push(`level ${level}, ${a} downward and ${b} upward`);
    else if (a.startsWith('Attn')) factors.push(2 ** level);
  }
  return factors;
}

function imageSize(size: unknown, factor: number, problems: string[]): number {
  const side = Array.isArray(size) && size[0] === size[1] ? size[0] : size;
  if (Number.isInteger(side) && (side as number) > 0) return side as number;
  // The library takes any size where none is told.
  if (size === null || size === undefined) return 8 * factor;
  problems.push(`sample_size ${show(size)} (supported: one number for both sides)`);
  return factor;
}

/** The process of a scheduler, as far as we have it. */
function readScheduler(json: Json, problems: string[]): DiffusionArguments {
  const steps = json['num_train_timesteps'] ?? 1000;
  const schedule = json['beta_schedule'] ?? 'linear';
  const prediction = json['prediction_type'] ?? 'epsilon';
  const variance = String(json['variance_type'] ?? 'fixed_small');
  const near = (a: unknown, b: number) => typeof a === 'number' && Math.abs(a - b) <= 1e-9 * Math.abs(b);
  const complain = (name: string, value: unknown) => problems.push(`the scheduler’s ${name} ${show(value)}`);
  if (!Number.isInteger(steps) || (steps as number) < 1) complain('num_train_timesteps', steps);
  if (json['trained_betas']) complain('trained_betas', json['trained_betas']);
  if (schedule === 'linear') {
    // The linear schedule of the paper, scaled to the number of steps.
    const [first, last] = [json['beta_start'] ?? 1e-4, json['beta_end'] ?? 0.02];
    if (!near(first, 0.1 / (steps as number))) complain('beta_start', first);
    if (!near(last, 20 / (steps as number))) complain('beta_end', last);
  } else if (schedule !== 'squaredcos_cap_v2') complain('beta_schedule', schedule);
  const means = { epsilon: 'epsilon', sample: 'start_x', v_prediction: 'v' } as const;
  if (!Object.hasOwn(means, String(prediction))) complain('prediction_type', prediction);
  // Logarithms and clipping change the numbers of the variance, not its meaning.
  const variances = {
    fixed_small: 'fixed_small',
    fixed_small_log: 'fixed_small',
    fixed_large: 'fixed_large',
    fixed_large_log: 'fixed_large',
    learned_range: 'learned_range',
  } as const;
  if (!Object.hasOwn(variances, variance)) complain('variance_type', variance);
  return {
    steps: steps as number,
    noise_schedule: schedule === 'linear' ? 'linear' : 'cosine',
    var_type: variances[variance as keyof typeof variances] ?? 'fixed_small',
    mean_type: means[prediction as keyof typeof means] ?? 'epsilon',
    rescale_timesteps: false,
  };
}

/** Where one of our tensors comes from. */
interface Recipe {
  /** Stacked along the first axis; each a list of names, of which a file has one: newer releases first. */
  readonly sources: readonly (readonly string[])[];
  /** Exchange the halves of every row. */
  readonly swap: boolean;
}

const RES_PARTS: Readonly<Record<string, readonly string[]>> = {
  'in_layers.0': ['norm1'],
  'in_layers.2': ['conv1'],
  'emb_layers.1': ['time_emb_proj', 'temb_proj'],
  'out_layers.0': ['norm2'],
  'out_layers.3': ['conv2'],
  skip_connection: ['conv_shortcut', 'nin_shortcut'],
};

const Q = ['to_q', 'query'];
const K = ['to_k', 'key'];
const V = ['to_v', 'value'];
const ATTENTION_PARTS: Readonly<Record<string, readonly (readonly string[])[]>> = {
  norm: [['group_norm']],
  qkv: [Q, K, V],
  proj_out: [['to_out.0', 'proj_attn']],
};

const FIXED: Readonly<Record<string, string>> = {
  'time_embed.0': 'time_embedding.linear_1',
  'time_embed.2': 'time_embedding.linear_2',
  label_emb: 'class_embedding',
  'input_blocks.0.0': 'conv_in',
  'out.0': 'conv_norm_out',
  'out.2': 'conv_out',
};

function recipeFor(name: string, { config, sinesFirst }: DiffusersModel): Recipe {
  const dot = name.lastIndexOf('.');
  const module = name.slice(0, dot);
  const end = name.slice(dot);
  const fixed = FIXED[module];
  if (fixed !== undefined) return { sources: [[fixed + end]], swap: sinesFirst && name === 'time_embed.0.weight' };

  const depth = config.model.num_res_blocks;
  const [, side, number, layer, part] = /^(input_blocks|output_blocks|middle_block)\.(?:(\d+)\.)?(\d+)\.(.+)$/.exec(
    module,
  )!;
  let home: string;
  if (side === 'middle_block')
    home = layer === '1' ? 'mid_block.attentions.0' : `mid_block.resnets.${Number(layer) / 2}`;
  else {
    const index = side === 'input_blocks' ? Number(number) - 1 : Number(number);
    const block = `${side === 'input_blocks' ? 'down' : 'up'}_blocks.${Math.floor(index / (depth + 1))}`;
    const j = index % (depth + 1);
    if (side === 'input_blocks' && j === depth) home = `${block}.downsamplers.0`;
    else if (layer === '0') home = `${block}.resnets.${j}`;
    else home = Object.hasOwn(ATTENTION_PARTS, part!) ? `${block}.attentions.${j}` : `${block}.upsamplers.0`;
  }
  const under = (names: readonly string[]) => names.map((n) => `${home}.${n}${end}`);
  if (part === 'op' || part === 'conv') return { sources: [under(['conv'])], swap: false };
  if (Object.hasOwn(ATTENTION_PARTS, part!)) return { sources: ATTENTION_PARTS[part!]!.map(under), swap: false };
  return { sources: [under(RES_PARTS[part!]!)], swap: false };
}

/**
 * The same checkpoint under our names, with the configuration in its metadata. Values are put together as they are read.
 *
 * @param text config.json, which lies beside the tensors
 * @param scheduler scheduler_config.json, if there is one
 * @throws CheckpointError listing what is not supported, or which tensors are missing, of another shape, or too many
 */
export function openDiffusers(file: OpenCheckpoint, text: string, scheduler: string | null = null): OpenCheckpoint {
  const model = readDiffusersConfig(text, scheduler);
  const used = new Set<string>();
  const wrong: string[] = [];
  const made = new Map<string, { info: TensorInfo; parts: readonly string[]; swap: boolean; at: number }>();
  const position = new Map([...file.tensors.keys()].map((name, i) => [name, i]));
  for (const { name, shape } of modelParameters(model.config)) {
    const { sources, swap } = recipeFor(name, model);
    const parts: string[] = [];
    const rows = shape[0]! / sources.length;
    let dtype: TensorInfo['dtype'] | null = null;
    for (const names of sources) {
      const source = names.find((n) => file.tensors.has(n));
      const found = source === undefined ? undefined : file.tensors.get(source)!;
      // Attention's products are linear layers there and 1 x 1 convolutions here: the last axis is of length one.
      const expected = [rows, ...shape.slice(1)];
      if (source === undefined || !found)
        wrong.push(`${names.join(' or ')} is missing, of ${elementCount(expected)} numbers`);
      else if (withoutOnes(found.shape) !== withoutOnes(expected)) {
        wrong.push(`${source} should have shape [${expected.join(', ')}], found [${found.shape.join(', ')}]`);
      } else if (dtype !== null && found.dtype !== dtype)
        wrong.push(`${source} is ${found.dtype}, others beside it ${dtype}`);
      else {
        parts.push(source);
        used.add(source);
        dtype = found.dtype;
      }
    }
    const at = Math.min(...parts.map((part) => position.get(part)!));
    if (dtype !== null) made.set(name, { info: { dtype, shape }, parts, swap, at });
  }
  for (const name of file.tensors.keys()) if (!used.has(name)) wrong.push(`${name} has no place`);
  if (wrong.length > 0) {
    const more = wrong.length > 6 ? `; and ${wrong.length - 6} more` : '';
    throw new CheckpointError(`the tensors are not those of this UNet2DModel: ${wrong.slice(0, 6).join('; ')}${more}`);
  }

  const entry = (name: string) => {
    const found = made.get(name);
    if (!found) throw new Error(`the checkpoint has no tensor ${name}`);
    return found;
  };
  const readInto = async (name: string, target: Uint8Array) => {
    const { parts, swap, info } = entry(name);
    const size = target.byteLength / parts.length;
    for (const [i, part] of parts.entries()) await file.readInto(part, target.subarray(i * size, (i + 1) * size));
    if (swap) swapHalves(target, info.shape[0]!);
  };
  return {
    format: `diffusers, ${file.format}`,
    size: file.size,
    metadata: new Map([...file.metadata, ['config', writeConfig(model.config)]]),
    tensors: new Map([...made].sort(([, a], [, b]) => a.at - b.at).map(([name, { info }]) => [name, info])),
    async read(name) {
      const { parts, swap } = entry(name);
      if (parts.length === 1 && !swap) return file.read(parts[0]!);
      const sizes = await Promise.all(parts.map((part) => file.read(part)));
      const bytes = new Uint8Array(sizes.reduce((sum, part) => sum + part.byteLength, 0));
      let at = 0;
      for (const part of sizes) {
        bytes.set(part, at);
        at += part.byteLength;
      }
      if (swap) swapHalves(bytes, entry(name).info.shape[0]!);
      return bytes;
    },
    readInto,
    close: () => file.close(),
  };
}

const withoutOnes = (shape: readonly number[]): string => shape.filter((n) => n !== 1).join();

/** Exchanges the first and second half of each row, in place. */
function swapHalves(bytes: Uint8Array, rows: number): void {
  const row = bytes.byteLength / rows;
  const half = row / 2;
  const first = new Uint8Array(half);
  for (let at = 0; at < bytes.byteLength; at += row) {
    first.set(bytes.subarray(at, at + half));
    bytes.copyWithin(at, at + half, at + row);
    bytes.set(first, at + half);
  }
}
