/** @file Features are what the last layer is given: a linear map of them gives the logits. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { loadModel } from '../../src/checkpoints/model.ts';
import { readSafetensors, toNumbers } from '../../src/checkpoints/safetensors.ts';
import { FeatureExtractor, logSoftmax } from '../../src/evaluate/features.ts';
import { expectClose, testRuntime, values } from '../device.ts';
import { CLASSIFIER_FILE } from '../models.ts';

const runtime = await testRuntime();
const weights = fileURLToPath(new URL('../../weights', import.meta.url));
const JUDGE_FILE = join(weights, 'evaluation', 'fashion-mnist-judge.safetensors');

describe.each([
  ['adaptive pool', JUDGE_FILE, 'out.3', 64],
  ['attention pool', CLASSIFIER_FILE, 'out.2.c_proj', 64],
])('%s', (_pool, path, last, width) => {
  const file = readFileSync(path);
  const { tensors } = readSafetensors(file);
  const weight = toNumbers(tensors.get(`${last}.weight`)!);
  const bias = toNumbers(tensors.get(`${last}.bias`)!);
  const pictures = values(3 * 28 * 28, 7);

  test('the last layer turns features into probabilities; batches do not matter', async () => {
    const model = loadModel(runtime, file);
    if (!model.isClassifier()) throw new Error(`${path} is no classifier`);
    const extractor = await FeatureExtractor.create(runtime, model, 2);
    const { features, logProbs } = await extractor.judge(pictures);
    expect(features).toMatchObject({ count: 3, width });
    for (let i = 0; i < 3; i++) {
      const row = features.data.subarray(i * width, (i + 1) * width);
      const logits = Array.from(bias, (b, k) => row.reduce((sum, f, j) => sum + f * weight[k * width + j]!, b));
      expectClose(logProbs.data.subarray(10 * i, 10 * i + 10), logSoftmax(logits), 1e-5);
    }
    const alone = await extractor.judge(pictures.subarray(2 * 784));
    expectClose(alone.features.data, features.data.subarray(2 * width), 1e-6);
    extractor.dispose();
    model.dispose();
  });
});

test('pictures are judged as they are saved', async () => {
  const model = loadModel(runtime, readFileSync(JUDGE_FILE));
  if (!model.isClassifier()) throw new Error('the judge is no classifier');
  const extractor = await FeatureExtractor.create(runtime, model, 1);
  const picture = values(784, 3, 1.5);
  const clamped = picture.map((v) => Math.min(1, Math.max(-1, v)));
  const [plain, again] = [await extractor.judge(picture), await extractor.judge(clamped)];
  expect([...plain.features.data]).toEqual([...again.features.data]);
  await expect(extractor.judge(picture.subarray(1))).rejects.toThrow('expected pictures of 1 x 28 x 28 values');
  extractor.dispose();
  model.dispose();
});
