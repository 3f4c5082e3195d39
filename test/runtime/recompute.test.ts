import { describe, expect, test } from 'vitest';
import { linearPart } from '../../src/diffusion/ddim.ts';
import { Denoiser } from '../../src/diffusion/denoiser.ts';
import { adam, classifierGuidance, type GradientPlace } from '../../src/diffusion/guidance.ts';
import { Judge } from '../../src/diffusion/judge.ts';
import { buildStep } from '../../src/diffusion/step.ts';
import { buildNetwork } from '../../src/layers/network.ts';
import { OptionError } from '../../src/runtime/errors.ts';
import type { Graph, Target } from '../../src/runtime/graph.ts';
import { Plan } from '../../src/runtime/plan.ts';
import type { Tensor } from '../../src/runtime/resources.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { setEverything, testRuntime, values } from '../device.ts';
import { TINY, tinyModels } from '../models.ts';

// Convolutions that need no memory of their own, so that budgets are about what layers leave for one another.
const runtime = await testRuntime({ conv2d: 'registers', linear: 'registers' });
const { unet, classifier } = tinyModels(runtime);

async function outcome(graph: Graph, outputs: readonly Tensor[], memoryBudget?: number) {
  const plan = await Plan.create(runtime, graph, outputs, { memoryBudget });
  setEverything(plan, graph);
  await plan.run();
  await plan.run(); // what changes in place has changed once by now
  const results: Float32Array[] = [];
  for (const tensor of outputs) results.push(await plan.readArray(tensor));
  const { schedule: made } = plan;
  plan.dispose();
  return { results, made };
}

async function expectSame(graph: Graph, outputs: readonly Tensor[], share: number): Promise<void> {
  const plain = await outcome(graph, outputs);
  const budget = share * plain.made.bytes;
  const within = await outcome(graph, outputs, budget);
  expect(within.made.bytes).toBeLessThanOrEqual(budget);
  expect(within.made.recomputed).toBeGreaterThan(0);
  expect(within.made.calls.length).toBe(plain.made.calls.length + within.made.recomputed);
  within.results.forEach((result, i) => {
    expect(result.some((value) => value !== 0)).toBe(true);
    expect(result.every(Number.isFinite)).toBe(true);
    expect(result).toEqual(plain.results[i]);
  });
}

describe('within a memory budget, the same bits', () => {
  test.each(['online', 'stepwise'] as const)('gradient of a classifier, %s attention', async (attention) => {
    const target: Target = { ...runtime.target, variants: { ...runtime.target.variants, attention } };
    const { graph, outputs } = buildNetwork(target, classifier, { batch: 5 }, true);
    const wanted = [outputs.selected, outputs.logProbs, outputs.gradient].filter((t) => t !== null);
    for (const share of [0.8, 0.6]) await expectSame(graph, wanted, share);
  });

  test('gradient of a U-Net', async () => {
    const { graph, outputs } = buildNetwork(runtime.target, unet, { batch: 2 }, true);
    await expectSame(graph, [outputs.output, outputs.gradient!], 0.6);
  });

  // At `sample` the gradient is taken after x has changed, so nothing that was made of x before may be made again.
  test.each<GradientPlace>(['xt', 'sample'])('a guided step that changes x in place, gradient at %s', async (at) => {
    const guidance = classifierGuidance(classifier, { conditional: true, at, filter: adam() });
    const settings = { model: unet, guidance, shape: { ...TINY, n: 4 }, lowRes: null };
    const features = { dynamicThreshold: false, inpaint: true, hook: false };
    const step = buildStep(runtime.target, settings, linearPart('counter', true), features);
    const wanted = Object.values(step.outputs).filter((t) => t !== null);
    await expectSame(step.graphs[0]!, wanted, 0.75);
  });
});

test('a judge and a denoiser pass the budget on', async () => {
  const { graph, outputs } = buildNetwork(runtime.target, classifier, { batch: 5 }, true);
  const wanted = [outputs.output, outputs.logProbs, outputs.gradient].filter((t) => t !== null);
  const { bytes } = schedule(graph, wanted);
  const allocated = async (memoryBudget?: number) => {
    const before = runtime.buffers.liveBytes;
    const judge = await Judge.create(runtime, classifier, 5, { memoryBudget });
    const { gradient } = await judge.judge(values(5 * 64, 3), 400, [0, 1, 2, 3, 4]);
    const taken = runtime.buffers.liveBytes - before;
    judge.dispose();
    return { taken, gradient };
  };
  await allocated(); // packs the weights, which stay
  const [plain, within] = [await allocated(), await allocated(0.6 * bytes)];
  expect(within.gradient).toEqual(plain.gradient);
  expect(plain.taken - within.taken).toBeGreaterThan(0.35 * bytes);

  const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: 1, memoryBudget: 1 });
  const features = { dynamicThreshold: false, inpaint: false, hook: false };
  await expect(denoiser.stepper(linearPart('none'), features)).rejects.toThrow(OptionError);
});
