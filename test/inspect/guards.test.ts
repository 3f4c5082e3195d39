/**
 * @file What plans cost, counted instead of timed: dispatches, pipelines, work and memory of the shipped models and of two
 * of the released ones. A change that makes a plan larger or smaller shows here on any machine, whatever its load.
 *
 * The figures are in guards.json, each plan with the reason of its last change. To change them, say why:
 *
 *   PILOTWAVE_GUARD_REASON="why they changed" npx vitest run test/inspect/guards.test.ts
 *
 * rewrites the plans that changed, and the difference is what a reviewer reads. Plans whose figures stayed keep their reason.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type ModelConfig, readConfig } from '../../src/checkpoints/config.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { readSafetensors } from '../../src/checkpoints/safetensors.ts';
import {
  type PlanSummary,
  type SummaryOptions,
  shapedModel,
  summarize,
  summarizeStep,
} from '../../src/inspect/summary.ts';
import type { Target } from '../../src/runtime/graph.ts';
import { shippedTable } from '../../src/runtime/shipped_tuning.ts';
import { SUBGROUP_MATRIX_FEATURE } from '../../src/runtime/subgroup_matrix.ts';
import { Tuning } from '../../src/runtime/tuning.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';

const FILE = fileURLToPath(new URL('guards.json', import.meta.url));

const FIGURES = [
  'dispatches',
  'pipelines',
  'flops',
  'bytesMoved',
  'weightBytes',
  'activationBytes',
  'liveBytes',
  'largestActivationBytes',
] as const;

type Figures = Record<(typeof FIGURES)[number], number>;

interface Guard {
  /** Why the figures are what they are: of their last change. */
  readonly reason: string;
  readonly figures: Figures;
}

type Kind<K extends ModelConfig['kind']> = Extract<ModelConfig, { kind: K }>;

interface Pair {
  readonly unet: Kind<'unet'>;
  readonly classifier: Kind<'classifier'>;
}

const released = (line: string): Pair => {
  const flags = parseFlags(
    `${line} --attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --learn_sigma True
     --num_head_channels 64 --resblock_updown True --use_scale_shift_norm True`,
  );
  return { unet: flags.config('unet'), classifier: flags.config('classifier') };
};

const shipped = <K extends ModelConfig['kind']>(file: string): Kind<K> =>
  readConfig(readSafetensors(readFileSync(file))) as Kind<K>;

const MODELS: Readonly<Record<string, Pair & { readonly batches: readonly number[] }>> = {
  'Fashion-MNIST': { unet: shipped(UNET_FILE), classifier: shipped(CLASSIFIER_FILE), batches: [1, 10] },
  'ADM-64': {
    ...released(`--image_size 64 --num_channels 192 --num_res_blocks 3 --noise_schedule cosine
      --use_new_attention_order True --classifier_depth 4`),
    batches: [1],
  },
  'ADM-256': {
    ...released('--image_size 256 --num_channels 256 --num_res_blocks 2 --noise_schedule linear --classifier_depth 2'),
    batches: [1],
  },
};

const TARGETS: Readonly<Record<string, Target>> = {
  gpu: { adapter: 'gpu', slowCompiler: false },
  cpu: { adapter: 'cpu', slowCompiler: false },
};

const h200 = {
  adapter: 'gpu',
  slowCompiler: false,
  workgroupBytes: 49152,
  bindingBytes: 2 ** 32 - 4,
  features: new Set(['subgroups', 'shader-f16', SUBGROUP_MATRIX_FEATURE]),
  subgroupMatrix: { m: 16, n: 16, k: 16, subgroup: 32 },
} as const satisfies Target;

/** ADM-64 in the batch that is timed beside PyTorch, on a GPU that a table is shipped for, and with all that it can. */
const H200: Readonly<Record<string, Target>> = {
  H200: {
    ...h200,
    tuning: new Tuning(shippedTable({ vendor: 'nvidia', device: 'nvidia-h200' } as GPUAdapterInfo)),
  },
  'H200, reduced': { ...h200, accuracy: 'reduced' },
};

/** Share of the activations that a plan of the gradient is also made for: the rest is computed anew. */
const BUDGET = 0.7;

function plansOf({ unet, classifier }: Pair, options: SummaryOptions): PlanSummary[] {
  const forward = summarize(unet, options).plans[0]!;
  const gradient = summarize(classifier, options).plans.find(({ what }) => what.includes('gradient'))!;
  const step = summarizeStep(shapedModel(unet), shapedModel(classifier), options);
  const named = [{ ...forward, what: 'U-Net' }, { ...gradient, what: 'classifier with its gradient' }, step];
  if (options.batch !== 1) return named;
  const memoryBudget = BUDGET * gradient.activationBytes;
  const within = summarize(classifier, { ...options, memoryBudget }).plans[1]!;
  return [...named, { ...within, what: `classifier with its gradient, in ${100 * BUDGET} % of the activations` }];
}

const found = new Map<string, Figures>();
function count(model: string, pair: Pair, batch: number, kind: string, target: Target): void {
  for (const plan of plansOf(pair, { batch, target })) {
    const figures = Object.fromEntries(FIGURES.map((figure) => [figure, plan[figure]])) as Figures;
    found.set(`${model}, ${plan.what}, batch ${batch}, ${kind}`, figures);
  }
}

for (const [model, { batches, ...pair }] of Object.entries(MODELS)) {
  for (const batch of batches) {
    for (const [kind, target] of Object.entries(TARGETS)) count(model, pair, batch, kind, target);
  }
}
for (const [kind, target] of Object.entries(H200)) count('ADM-64', MODELS['ADM-64']!, 8, kind, target);

let recorded = JSON.parse(readFileSync(FILE, 'utf8')) as Record<string, Guard>;
const reason = process.env['PILOTWAVE_GUARD_REASON']?.trim();
if (reason) {
  const unchanged = (name: string, figures: Figures) =>
    FIGURES.every((figure) => recorded[name]?.figures[figure] === figures[figure]);
  recorded = Object.fromEntries(
    [...found].map(([name, figures]) => [name, unchanged(name, figures) ? recorded[name]! : { reason, figures }]),
  );
  writeFileSync(FILE, `${JSON.stringify(recorded, null, 2)}\n`);
}

test.each([...found])('%s', (name, figures) => {
  expect(figures).toEqual(recorded[name]?.figures);
  expect(recorded[name]?.reason).toMatch(/\S/);
});

test('no plan is recorded that is not made any more', () => {
  expect(Object.keys(recorded)).toEqual([...found.keys()]);
});
