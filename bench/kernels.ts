/**
 * @file Kernels by family and shape, with their variants, forward and backward: built, checked, timed.
 *
 * Variants are those that the layers offer (src/runtime/variants.ts), each forced in turn. A family's case says how to build
 * the operation and what it should compute; a new variant appears by itself, a new operation needs one more family.
 */
import type { Checkpoint, CheckpointTensor } from '../src/checkpoints/safetensors.ts';
import * as attention from '../src/layers/attention.ts';
import * as conv2d from '../src/layers/conv2d.ts';
import { add } from '../src/layers/elementwise.ts';
import * as groupNorm from '../src/layers/group_norm.ts';
import { upsample } from '../src/layers/resample.ts';
import type { Runtime } from '../src/runtime/device.ts';
import { Graph, type Target } from '../src/runtime/graph.ts';
import { type Clock, type MeasureOptions, measure, type Timing } from '../src/runtime/measure.ts';
import { Plan } from '../src/runtime/plan.ts';
import { type Activation, activationBytes, quads, type Shape } from '../src/runtime/resources.ts';
import type { Cost } from '../src/runtime/shader.ts';
import { wayOf } from '../src/runtime/variants.ts';
import { Weights } from '../src/runtime/weights.ts';
import { numbers } from './numbers.ts';
import type { Peak } from './peak.ts';
import {
  attentionHead,
  convolution,
  convolutionGradient,
  groupNormSilu,
  relativeError,
  type Sample,
  upsampling,
} from './reference.ts';
import type { Direction, Figure, Row, Wrong } from './results.ts';

export const SHIPPED_MODELS = 'Shipped models';

/** A way to compute a case, as the layers offer it. */
interface Variant {
  readonly name: string;
  /** Whether the engine takes it on this adapter. */
  readonly chosen: boolean;
  /** Where it should win. */
  readonly note: string;
  readonly target: Target;
}

/** Errors above this are wrong, not rounding: float32 sums of some thousand terms err by about 1e-6. */
const TOLERANCE = 2e-5;

/** Places of a result that are checked. */
const CHECKED = 512;

interface Parameters {
  readonly [name: string]: { readonly shape: readonly number[]; readonly data: Float32Array };
}

interface Expected {
  readonly forward: Sample;
  readonly gradient: Sample;
}

export interface KernelCase {
  readonly family: string;
  readonly shape: string;
  readonly models: string;
  readonly memoryBound: boolean;
  readonly batch: number;
  readonly input: Shape;
  readonly parameters: Parameters;
  readonly cost: Readonly<Record<Direction, Cost>>;
  build(graph: Graph, weights: Weights, x: Activation): Activation;
  expect(x: Float32Array, dy: Float32Array): Expected;
}

interface Place {
  readonly models: string;
  readonly batch: number;
  readonly size: number;
}

function convolutionCase({ models, batch, size }: Place, ins: number, out: number, k: 1 | 3): KernelCase {
  const spec = { in: ins, out, kernel: k, stride: 1 } as const;
  const input = { n: batch, c: ins, h: size, w: size };
  const weight = numbers(out * ins * k * k, 1, 1 / Math.sqrt(ins * k * k));
  const bias = numbers(out, 2, 0.1);
  const cost = conv2d.cost(spec, input);
  return {
    family: k === 3 ? 'Convolution 3×3' : 'Convolution 1×1',
    shape: `${size}×${size}, ${ins} → ${out}`,
    models,
    memoryBound: false,
    batch,
    input,
    parameters: { 'k.weight': { shape: [out, ins, k, k], data: weight }, 'k.bias': { shape: [out], data: bias } },
    cost: { forward: cost, gradient: cost },
    build: (graph, weights, x) => conv2d.forward({ graph, weights }, spec, 'k', x),
    expect: (x, dy) => ({
      forward: convolution(x, input, weight, bias, { out, k, stride: 1 }, CHECKED),
      gradient: convolutionGradient(dy, input, weight, { out, k, stride: 1 }, CHECKED),
    }),
  };
}

function groupNormCase({ models, batch, size }: Place, channels: number): KernelCase {
  const spec = groupNorm.normalization(channels, true);
  const input = { n: batch, c: channels, h: size, w: size };
  const gamma = numbers(channels, 3).map((v) => 1 + 0.2 * v);
  const beta = numbers(channels, 4, 0.2);
  const bytes = activationBytes(input);
  return {
    family: 'GroupNorm + SiLU',
    shape: `${size}×${size}, ${channels} channels`,
    models,
    memoryBound: true,
    batch,
    input,
    parameters: { 'k.weight': { shape: [channels], data: gamma }, 'k.bias': { shape: [channels], data: beta } },
    // Backward: two sums over dy and x, then dx of both.
    cost: { forward: groupNorm.cost(spec, input), gradient: { flops: 7 * bytes, bytes: 5 * bytes } },
    build: (graph, weights, x) => groupNorm.forward({ graph, weights }, spec, 'k', x),
    expect: (x, dy) => groupNormSilu(x, dy, input, { gamma, beta, groups: spec.groups, eps: spec.eps }, 4),
  };
}

function attentionCase({ models, batch, size }: Place, heads: number, width: number): KernelCase {
  const tokens = size * size;
  const input = { n: batch, c: heads * 3 * quads(width) * 4, h: size, w: size };
  const forward = attention.cost({ heads, width }, batch, tokens);
  return {
    family: 'Attention',
    shape: `${heads} ${heads === 1 ? 'head' : 'heads'}, T = ${tokens}, d = ${width}`,
    models,
    memoryBound: false,
    batch,
    input,
    parameters: {},
    // Five products of the scores' size where forward has two, and two more where scores are made again.
    cost: { forward, gradient: { flops: 3.5 * forward.flops, bytes: 2 * forward.bytes } },
    build: (graph, _weights, x) => attention.forward(graph, { heads, width }, x),
    expect: (x, dy) => attentionHead(x, dy, { tokens, width }),
  };
}

function upsampleCase({ models, batch, size }: Place, channels: number): KernelCase {
  const input = { n: batch, c: channels, h: size, w: size };
  const bytes = 5 * activationBytes(input);
  return {
    family: 'Resampling',
    shape: `${size}×${size} → ${2 * size}×${2 * size}, ${channels} channels`,
    models,
    memoryBound: true,
    batch,
    input,
    parameters: {},
    cost: { forward: { flops: 0, bytes }, gradient: { flops: activationBytes(input), bytes } },
    build: (graph, _weights, x) => upsample(graph, x),
    expect: (x, dy) => upsampling(x, dy, input, CHECKED),
  };
}

/** All cases: the shapes that the shipped models have at ten images, and those of the released ones at one. */
export function kernelCases(): KernelCase[] {
  const at = (models: string, batch: number) => (size: number) => ({ models, batch, size });
  const shipped = at(SHIPPED_MODELS, 10);
  const adm64 = at('ADM-64', 1);
  const adm256 = at('ADM-256', 1);
  return [
    convolutionCase(shipped(28), 32, 32, 3),
    convolutionCase(shipped(14), 64, 64, 3),
    convolutionCase(shipped(7), 64, 64, 3),
    convolutionCase(adm64(64), 192, 192, 3),
    convolutionCase(adm64(16), 576, 576, 3),
    convolutionCase(adm64(8), 768, 768, 3),
    convolutionCase(adm256(128), 256, 256, 3),
    convolutionCase(adm256(16), 1024, 1024, 3),
    convolutionCase(shipped(14), 96, 64, 1),
    convolutionCase(shipped(7), 64, 192, 1),
    convolutionCase(adm64(32), 384, 1152, 1),
    convolutionCase(adm256(32), 512, 1536, 1),
    groupNormCase(shipped(28), 32),
    groupNormCase(shipped(14), 64),
    groupNormCase(adm64(64), 192),
    groupNormCase(adm256(128), 256),
    attentionCase(shipped(7), 2, 32),
    attentionCase(adm64(32), 6, 64),
    attentionCase(adm256(16), 16, 64),
    upsampleCase(shipped(14), 64),
    upsampleCase(adm256(64), 512),
  ];
}

export const families = (cases: readonly KernelCase[]): string[] => [...new Set(cases.map(({ family }) => family))];

const checkpointOf = (parameters: Parameters): Checkpoint['tensors'] =>
  new Map(
    Object.entries(parameters).map(([name, { shape, data }]): [string, CheckpointTensor] => [
      name,
      { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) },
    ]),
  );

/** One variant of a case on the device. */
interface Built {
  readonly variant: Variant;
  readonly forward: Plan;
  readonly gradient: Plan;
  /** Dispatches of the gradient: where they begin. What comes before makes what they need. */
  readonly from: number;
  readonly errors: Readonly<Record<Direction, number>>;
  dispose(): void;
}

/**
 * Checks and times all variants of a case against each other.
 *
 * @throws the signal's reason if it is aborted
 */
export async function benchCase(
  runtime: Runtime,
  clock: Clock,
  peak: Peak,
  kernel: KernelCase,
  options: MeasureOptions = {},
): Promise<Row[]> {
  const { n, c, h, w } = kernel.input;
  const x = numbers(n * c * h * w, 5);
  const weights = new Weights(runtime, checkpointOf(kernel.parameters));
  const built: Built[] = [];
  try {
    let expected: Expected | null = null;
    let dy: Float32Array | null = null;
    for (const variant of variantsOf(runtime, kernel, weights)) {
      options.signal?.throwIfAborted();
      const outSize = sizeOfOutput(runtime, kernel, weights);
      dy ??= numbers(outSize, 6);
      expected ??= kernel.expect(x, dy);
      built.push(await build(runtime, kernel, variant, weights, x, dy, expected));
    }
    const timings = {} as Record<Direction, Map<Built, Timing>>;
    for (const direction of ['forward', 'gradient'] as const) {
      const right = built.filter((b) => b.errors[direction] <= TOLERANCE);
      const tasks = right.map((b) => ({
        name: b.variant.name,
        encode: (pass: GPUComputePassEncoder) =>
          direction === 'forward' ? b.forward.encode(pass) : b.gradient.encode(pass, b.from),
      }));
      const measured = await measure(clock, tasks, options);
      timings[direction] = new Map(right.map((b, i) => [b, measured[i]!]));
    }
    const rows = built.map((b): Row => {
      const figure = (direction: Direction): Figure | Wrong => {
        const error = b.errors[direction];
        const timing = timings[direction].get(b);
        if (!timing) return { error, wrong: `relative error above ${TOLERANCE}` };
        const cost = kernel.cost[direction];
        const flops = cost.flops / (timing.ms / 1e3);
        const bandwidth = cost.bytes / (timing.ms / 1e3);
        const share = kernel.memoryBound ? bandwidth / peak.bandwidth : flops / peak.flops;
        return { ...timing, error, flops, bandwidth, share };
      };
      const { family, shape, models, memoryBound, batch, cost } = kernel;
      const note = memoryBound
        ? `batch ${batch}, ${(cost.forward.bytes / 1e6).toPrecision(3)} MB`
        : `batch ${batch}, ${(cost.forward.flops / 1e9).toPrecision(3)} GFLOP`;
      const intensity = {
        forward: cost.forward.flops / cost.forward.bytes,
        gradient: cost.gradient.flops / cost.gradient.bytes,
      };
      const { name, chosen, note: where } = b.variant;
      const common = { family, shape, models, memoryBound, note, intensity };
      return {
        ...common,
        variant: name,
        chosen,
        reason: chosen ? '' : where,
        forward: figure('forward'),
        gradient: figure('gradient'),
      };
    });
    // The one in use first, then by time; what is wrong comes last.
    const time = (row: Row) => ('ms' in row.forward ? row.forward.ms : Number.POSITIVE_INFINITY);
    return rows.sort((a, b) => Number(b.chosen) - Number(a.chosen) || time(a) - time(b));
  } finally {
    for (const b of built) b.dispose();
    weights.dispose();
  }
}

function graphOf(kernel: KernelCase, target: Target, weights: Weights) {
  const graph = new Graph(target);
  const x = graph.input('x', kernel.input);
  const y = kernel.build(graph, weights, x);
  return { graph, x, y };
}

function sizeOfOutput(runtime: Runtime, kernel: KernelCase, weights: Weights): number {
  const { n, c, h, w } = graphOf(kernel, runtime.target, weights).y.shape;
  return n * c * h * w;
}

/** Of variants that differ in their tiles alone, as many as should be fastest are shown. */
const TILES_SHOWN = 2;

/** What the layers could take for a case; the adapter's own choice first. */
function variantsOf(runtime: Runtime, kernel: KernelCase, weights: Weights): Variant[] {
  const { target } = runtime;
  const { choice } = graphOf(kernel, target, weights).graph.operations.find((o) => o.choice) ?? {};
  if (!choice) return [{ name: 'the only one', chosen: true, note: '', target }];
  const chosen = choice.chosen().name;
  const shown = new Map<string, number>();
  const list = choice.candidates().filter(({ name }) => {
    const way = wayOf(name);
    const before = shown.get(way) ?? 0;
    if (name !== chosen) shown.set(way, before + 1);
    return name === chosen || before < TILES_SHOWN;
  });
  return list
    .sort((a, b) => Number(b.name === chosen) - Number(a.name === chosen))
    .map(({ name, note }) => ({
      name,
      note,
      chosen: name === chosen,
      target: { ...target, variants: { ...target.variants, [choice.kind]: name } },
    }));
}

async function build(
  runtime: Runtime,
  kernel: KernelCase,
  variant: Variant,
  weights: Weights,
  x: Float32Array,
  dy: Float32Array,
  expected: Expected,
): Promise<Built> {
  const plans: Plan[] = [];
  const dispose = () => {
    for (const plan of plans) plan.dispose();
  };
  try {
    const one = graphOf(kernel, variant.target, weights);
    const forward = await Plan.create(runtime, one.graph, [one.y]);
    plans.push(forward);
    const two = graphOf(kernel, variant.target, weights);
    const upstream = two.graph.input('dy', two.y.shape);
    const before = new Set(two.graph.operations.map(({ name }) => name));
    const dx = two.graph.backward(two.y, upstream, two.x, add);
    const gradient = await Plan.create(runtime, two.graph, [dx]);
    plans.push(gradient);
    const from = gradient.schedule.calls.findIndex(({ operation }) => !before.has(operation));
    forward.write(one.x, x);
    if (gradient.has(two.x)) gradient.write(two.x, x);
    gradient.write(upstream, dy);
    await forward.run();
    await gradient.run();
    const errors = {
      forward: relativeError(await forward.read(one.y), expected.forward),
      gradient: relativeError(await gradient.read(dx), expected.gradient),
    };
    return { variant, forward, gradient, from: Math.max(0, from), errors, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}
