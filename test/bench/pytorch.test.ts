/** @file What PyTorch and our benchmark found, put together. */
import { expect, test } from 'vitest';
import { kept, type OwnResult, ratios, table } from '../../bench/pytorch/report.mjs';

const timing = (ms: number) => ({ ms, least: ms, spread: 0.01, runs: 20, wall_ms: ms + 1 });
const model = (name: string, note: string, ms: number, error?: number) => ({
  ...{ name, note, batch: 8, ms, spread: 0.02, wallMs: ms + 2, dispatches: 9, submits: 1 },
  ...{ bytes: 1, flops: 1, peakBytes: 1, share: 0.5, layers: [], heaviest: [] },
  ...(error === undefined ? {} : { error }),
  kinds: { conv: 1, norm: 0, attn: 0, lin: 0, other: 0 },
});
const own = (scale: number) =>
  kept({
    models: [
      model('U-Net', 'forward', 60 * scale, 1e-6),
      model('Classifier', 'forward', 10 * scale),
      model('Classifier', 'forward and input gradient', 30 * scale, 2e-6),
      model('Guided step', 'U-Net, classifier, its gradient, DDIM', 90 * scale, 3e-6),
    ],
  } as unknown as OwnResult);

const pytorch = {
  first: {
    best: {
      float32: { step: timing(100), unet: timing(60), classifier_gradient: timing(40) },
      float16: { step: timing(30) },
    },
  },
  again: { best: { float32: { step: timing(90) }, float16: { step: timing(31) } } },
};

test('each accuracy has its rival; of two measurements of a step the faster counts', () => {
  const rows = ratios({ pytorch, pilotwave: { float32: own(1), reduced: own(0.5) } });
  expect(rows.map(({ part, precision, pytorchMs, ratio }) => [part, precision, pytorchMs, ratio])).toEqual([
    ['U-Net', 'float32', 60, 1],
    ['classifier and its gradient', 'float32', 40, 0.75],
    ['guided step', 'float32', 90, 1],
    ['guided step', 'float16', 30, 1.5],
  ]);
  expect(own(1).models[0]).not.toHaveProperty('layers');
});

test('what one side lacks has no ratio', () => {
  expect(ratios({ pytorch, pilotwave: {} })).toEqual([]);
  const some = { pytorch: { ...pytorch, again: null }, pilotwave: { float32: own(2) } };
  expect(table(some)).toEqual([
    '                             Pilotwave        PyTorch          ratio   error',
    'U-Net                        float32 120 ms   float32 60.0 ms   2.00  1.0e-6',
    'classifier and its gradient  float32 60.0 ms  float32 40.0 ms   1.50  2.0e-6',
    'guided step                  float32 180 ms   float32 100 ms    1.80  3.0e-6',
  ]);
});
