/**
 * @file Which model is it? A configuration from the names and shapes of tensors alone.
 *
 * Candidates are made from what shapes can tell, and kept only if the model they describe has exactly the file's tensors.
 * What no shape tells (heads, their order, the image's size, the process) is taken from the released model of the same
 * shapes if there is one, else from guided-diffusion's defaults, and listed as assumed.
 */
import type { ClassifierArguments, Pool } from '../layers/classifier.ts';
import type { EncoderArguments } from '../layers/encoder.ts';
import type { UNetArguments } from '../layers/unet.ts';
import { CheckpointError } from '../runtime/errors.ts';
import { checkArchitecture, type ModelArguments, type ModelConfig, mismatches, modelParameters } from './config.ts';
import { wordsFor } from './flag_words.ts';
import { parseFlags } from './flags.ts';
import { show } from './show.ts';

type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

/** A choice that the tensors leave open. */
export interface Assumption {
  /** The argument, in the words of guided-diffusion's constructors. */
  readonly argument: string;
  /** What was taken. */
  readonly assumed: unknown;
  /** Why, and what else it could be. */
  readonly reason: string;
  /** The flag that would say it. */
  readonly flag: string;
}

export interface Inference {
  readonly config: ModelConfig;
  readonly assumptions: readonly Assumption[];
  /** The released model whose names and shapes these are, all of them; null if there is none. */
  readonly released: string | null;
}

/** Flags of the released models that differ in shape, to recognise them by. */
const RELEASED: Readonly<Record<string, string>> = (() => {
  const shared = '--diffusion_steps 1000 --learn_sigma True --resblock_updown True --use_scale_shift_norm True';
  const unet = `${shared} --attention_resolutions 32,16,8`;
  const adm = `${unet} --noise_schedule linear --num_channels 256 --num_res_blocks 2`;
  const up = `${shared} --noise_schedule linear --num_channels 192 --num_res_blocks 2 --class_cond True`;
  return {
    '64x64_diffusion': `${unet} --image_size 64 --class_cond True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True`,
    '128x128_diffusion': `${adm} --image_size 128 --class_cond True --num_heads 4`,
    '256x256_diffusion': `${adm} --image_size 256 --class_cond True --num_head_channels 64`,
    '256x256_diffusion_uncond': `${adm} --image_size 256 --class_cond False --num_head_channels 64`,
    '512x512_diffusion': `${adm} --image_size 512 --class_cond True --num_head_channels 64`,
    '64_256_upsampler': `${up} --large_size 256 --small_size 64 --attention_resolutions 32,16,8 --num_heads 4`,
    '128_512_upsampler': `${up} --large_size 512 --small_size 128 --attention_resolutions 32,16 --num_head_channels 64`,
    '64x64_classifier': '--image_size 64 --classifier_depth 4',
    '128x128_classifier': '--image_size 128 --classifier_depth 2',
    '256x256_classifier': '--image_size 256 --classifier_depth 2',
    '512x512_classifier': '--image_size 512 --classifier_depth 2',
  };
})();

/** The released model of exactly these names and shapes. */
function releasedModel(tensors: Shapes): { name: string; config: ModelConfig } | null {
  for (const [name, text] of Object.entries(RELEASED)) {
    const flags = parseFlags(text);
    const config = flags.config(flags.kinds[0]!);
    if (fits(tensors, config)) return { name, config };
  }
  return null;
}

function fits(tensors: Shapes, config: ModelArguments): boolean {
  const parameters = modelParameters(config);
  return parameters.length === tensors.size && mismatches(tensors, parameters).length === 0;
}

/**
 * @param tensors names and shapes
 * @throws CheckpointError saying why no model of this engine has them
 */
export function inferConfig(tensors: Shapes): Inference {
  const released = releasedModel(tensors);
  if (released) {
    const { name, config } = released;
    const heads = `the tensors are those of the released ${name}, which has this`;
    return { config, assumptions: openQuestions(config, heads), released: name };
  }
  const { candidates, nearest } = makeCandidates(tensors);
  const fitting = candidates.filter((candidate) => fits(tensors, candidate));
  const [best, ...others] = fitting;
  if (!best) {
    const wrong = nearest ? mismatches(tensors, modelParameters(nearest)) : [];
    const first = wrong[0];
    const hint = first
      ? `; the nearest guess already differs at ${first.name}, expected ${first.expected ? `[${first.expected.join(', ')}]` : 'nothing'}, found ${first.found ? `[${first.found.join(', ')}]` : 'nothing'}`
      : '';
    throw new CheckpointError(`the tensors are those of no model of guided-diffusion${hint}`);
  }
  const config = described(best);
  const twins = others.map((other) => ({
    argument: differing(best, other).join(', ') || 'kind',
    assumed: differing(best, other).map((name) => (best.model as unknown as Record<string, unknown>)[name]),
    reason: `the shapes also fit ${differing(best, other)
      .map((name) => `${name} ${JSON.stringify((other.model as unknown as Record<string, unknown>)[name])}`)
      .join(', ')}${other.kind === best.kind ? '' : ` of a ${other.kind}`}`,
    flag: differing(best, other)
      .map((name) => wordsFor(other, name))
      .join(' '),
  }));
  const open = openQuestions(config, 'no shape tells; guided-diffusion’s default');
  return { config, assumptions: [...twins, ...open], released: null };
}

function differing(a: ModelArguments, b: ModelArguments): string[] {
  const [first, second] = [a.model, b.model] as unknown as Record<string, unknown>[];
  return Object.keys(first!).filter((name) => JSON.stringify(first![name]) !== JSON.stringify(second![name]));
}

function described(candidate: ModelArguments): ModelConfig {
  const { in_channels, out_channels } = candidate.model;
  const learned = candidate.kind !== 'classifier' && out_channels === 2 * in_channels;
  const diffusion = {
    steps: 1000,
    noise_schedule: 'linear',
    var_type: learned ? 'learned_range' : 'fixed_large',
    mean_type: 'epsilon',
    rescale_timesteps: false,
  } as const;
  return { ...candidate, diffusion, classes: null, nullClass: null } as ModelConfig;
}

/** What no shape tells. */
function openQuestions(config: ModelConfig, why: string): Assumption[] {
  const { kind, model, diffusion } = config;
  const flagOf = (argument: string) => wordsFor(config, argument).split(' ')[0]!;
  const list: Assumption[] = [];
  const ask = (argument: string, assumed: unknown, reason = why) =>
    list.push({ argument, assumed, reason, flag: flagOf(argument) });
  if (model.num_head_channels === -1) ask('num_heads', model.num_heads);
  else ask('num_head_channels', model.num_head_channels);
  if (kind !== 'classifier') ask('use_new_attention_order', model.use_new_attention_order);
  if (kind !== 'classifier' || model.pool !== 'attention') ask('image_size', model.image_size);
  if (kind !== 'classifier') {
    ask('noise_schedule', diffusion?.noise_schedule);
    ask('diffusion_steps', diffusion?.steps);
    if (model.num_classes !== null) {
      list.push({
        argument: 'null_class',
        assumed: null,
        reason: `whether one of the ${model.num_classes} classes stands for "no class" is told by no shape`,
        flag: '',
      });
    }
  }
  return list;
}

/** All configurations that the names and a few shapes allow, likelier ones first. */
function makeCandidates(tensors: Shapes): { candidates: ModelArguments[]; nearest: ModelArguments | null } {
  const shape = (name: string): readonly number[] | null => tensors.get(name)?.shape ?? null;
  const need = (name: string, axes: number): readonly number[] => {
    const found = shape(name);
    if (found?.length === axes) return found;
    const what = found ? `has shape [${found.join(', ')}]` : 'is missing';
    const there = [...tensors.keys()].slice(0, 3).map(show).join(', ') || 'none at all';
    throw new CheckpointError(
      `the tensors are those of no model of guided-diffusion: ${name} ${what}; found names like ${there}`,
    );
  };
  const [, modelChannels] = need('time_embed.0.weight', 2) as [number, number];
  const [, inChannels] = need('input_blocks.0.0.weight', 4) as [number, number];
  const [, embedding] = need('middle_block.0.emb_layers.1.weight', 2) as [number, number];
  const inputs = count(tensors, 'input_blocks');
  const outputs = count(tensors, 'output_blocks');
  const named = (pattern: RegExp) => [...tensors.keys()].some((name) => pattern.test(name));
  // Average pooling has no tensors, so that its numbers are left out; the counts are of the highest number.
  const updown = named(/^input_blocks\.\d+\.0\.in_layers/) && !named(/^input_blocks\.\d+\.0\.op\./);
  const conv = named(/^input_blocks\.\d+\.0\.op\./);
  if (embedding !== 4 * modelChannels) {
    throw new CheckpointError(
      `the tensors are those of no model of guided-diffusion: middle_block.0.emb_layers.1.weight takes ${embedding} channels of an embedding that has ${4 * modelChannels}`,
    );
  }
  const emb = need('middle_block.0.emb_layers.1.weight', 2)[0]!;
  const middle = need('middle_block.0.in_layers.2.weight', 4)[0]!;
  const candidates: ModelArguments[] = [];
  for (const [levels, depth] of layouts(inputs, outputs)) {
    const first = (level: number) => `input_blocks.${1 + level * (depth + 1)}`;
    const widths = range(levels).map((level) => shape(`${first(level)}.0.in_layers.2.weight`)?.[0] ?? 0);
    if (widths.some((width) => width === 0 || width > 2 ** 20)) continue;
    const attention = range(levels)
      .filter((level) => shape(`${first(level)}.1.qkv.weight`) !== null)
      .map((level) => 2 ** level);
    const shared = {
      in_channels: inChannels,
      model_channels: modelChannels,
      num_res_blocks: depth,
      attention_resolutions: attention,
      channel_mult: widths.map((width) => width / modelChannels),
      use_scale_shift_norm: emb === 2 * middle,
      rescale_residual: false,
    };
    for (const resampling of resamplings(levels, updown, conv)) {
      const args = { ...shared, ...resampling, use_new_attention_order: false };
      if (outputs === 0) candidates.push(...classifiers(args, shape));
      else candidates.push(...unets(args, shape));
    }
  }
  const sound = candidates.filter((candidate) => {
    try {
      checkArchitecture(candidate);
      return true;
    } catch {
      return false;
    }
  });
  return { candidates: sound, nearest: sound[0] ?? null };
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** One more than the highest number that follows `prefix`. */
function count(tensors: Shapes, prefix: string): number {
  let most = -1;
  for (const name of tensors.keys()) {
    const number = name.startsWith(`${prefix}.`) ? /^\d{1,4}(?=\.)/.exec(name.slice(prefix.length + 1)) : null;
    if (number) most = Math.max(most, Number(number[0]));
  }
  return most + 1;
}

/** 16 levels of 128 residual blocks. */
const MAX_INPUTS = 16 * 129;

/** Numbers of levels and of residual blocks a level that give so many blocks: inputs = levels * (depth + 1). */
function layouts(inputs: number, outputs: number): [levels: number, depth: number][] {
  if (inputs > MAX_INPUTS || (outputs > 0 && inputs !== outputs)) return [];
  return range(Math.min(16, inputs))
    .map((i) => i + 1)
    .filter((levels) => inputs % levels === 0 && inputs / levels >= 2)
    .map((levels) => [levels, inputs / levels - 1] as [number, number])
    .sort((a, b) => b[0] - a[0]);
}

type Resampling = Pick<EncoderArguments, 'resblock_updown' | 'conv_resample'>;

function resamplings(levels: number, updown: boolean, conv: boolean): Resampling[] {
  if (levels === 1) return [{ resblock_updown: false, conv_resample: true }];
  if (conv) return [{ resblock_updown: false, conv_resample: true }];
  const pooled = { resblock_updown: false, conv_resample: false };
  return updown ? [{ resblock_updown: true, conv_resample: true }, pooled] : [pooled];
}

type Shared = Omit<EncoderArguments, 'image_size' | 'out_channels' | 'num_heads' | 'num_head_channels'>;

/** Sizes of images that guided-diffusion has such widths for; else one that leaves 8 pixels in the middle. */
function imageSize(mult: readonly number[]): number {
  const known: Readonly<Record<string, number>> = {
    '1,2,3,4': 64,
    '1,1,2,3,4': 128,
    '1,1,2,2,4,4': 256,
    '0.5,1,1,2,2,4,4': 512,
  };
  return known[mult.join()] ?? 8 * 2 ** (mult.length - 1);
}

/** Widths of the levels that have attention; the middle always has. */
function attendedWidths(args: Shared): number[] {
  const widths = args.channel_mult.map((mult) => Math.trunc(mult * args.model_channels));
  return widths.filter((_, i) => i === widths.length - 1 || args.attention_resolutions.includes(2 ** i));
}

/** guided-diffusion's 4 heads where the widths divide by 4, else one. */
function heads(args: Shared): Pick<EncoderArguments, 'num_heads' | 'num_head_channels'> {
  return { num_heads: attendedWidths(args).every((width) => width % 4 === 0) ? 4 : 1, num_head_channels: -1 };
}

function unets(args: Shared, shape: (name: string) => readonly number[] | null): ModelArguments[] {
  const out = shape('out.2.weight')?.[0];
  if (out === undefined) return [];
  const model: UNetArguments = {
    ...args,
    ...heads(args),
    image_size: imageSize(args.channel_mult),
    out_channels: out,
    num_classes: shape('label_emb.weight')?.[0] ?? null,
    num_heads_upsample: -1,
  };
  // A super-resolution model sees two pictures of as many channels as it makes one of, learned variance not counted.
  const half = args.in_channels / 2;
  const large = { kind: 'super_resolution', model: { ...model, in_channels: half } } as const;
  if (out === half) return [large];
  const plain = { kind: 'unet', model } as const;
  if (out !== args.in_channels || !Number.isInteger(half)) return [plain];
  return half === 3 ? [large, plain] : [plain, large];
}

function classifiers(args: Shared, shape: (name: string) => readonly number[] | null): ModelArguments[] {
  const position = shape('out.2.positional_embedding');
  const make = (pool: Pool, last: string, more: Partial<ClassifierArguments> = {}): ModelArguments[] => {
    const classes = shape(last)?.[0];
    if (classes === undefined) return [];
    const size = imageSize(args.channel_mult);
    const model = { ...args, ...heads(args), image_size: size, out_channels: classes, pool, ...more };
    return [{ kind: 'classifier', model }];
  };
  if (position) {
    const side = Math.round(Math.sqrt((position[1] ?? 0) - 1));
    // The script gives classifiers heads of 64 channels; where that does not divide, they are narrower.
    const headChannels = [64, 32, 16, 8].find((channels) =>
      attendedWidths(args).every((width) => width % channels === 0),
    );
    const sized = { image_size: side * 2 ** (args.channel_mult.length - 1), num_heads: 1 };
    return make('attention', 'out.2.c_proj.weight', { ...sized, num_head_channels: headChannels ?? 1 });
  }
  return [
    ...make('spatial_v2', 'out.3.weight'),
    ...make('adaptive', 'out.3.weight'),
    ...make('spatial', 'out.2.weight'),
  ];
}
