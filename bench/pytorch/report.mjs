// What both sides found, put together: figures, ratios and a table. Pure.

/** A part of a step, as PyTorch's object calls it, and the case of our benchmark. */
const PARTS = [
  { key: 'unet', name: 'U-Net', note: 'forward', title: 'U-Net' },
  {
    key: 'classifier_gradient',
    name: 'Classifier',
    note: 'forward and input gradient',
    title: 'classifier and its gradient',
  },
  { key: 'step', name: 'Guided step', title: 'guided step' },
];

/** What is compared with what: our accuracies with PyTorch's precisions. */
export const RIVALS = [
  { accuracy: 'float32', precision: 'float32' },
  { accuracy: 'reduced', precision: 'float16' },
];

/** What is kept of a result of `bench --json`: all but the list of layers, which is long. */
export function kept({ adapter, host, clock, peak, device, tuned, models, wrong = [] }) {
  return { adapter, host, clock, peak, device, tuned, models: models.map(({ layers, ...model }) => model), wrong };
}

/**
 * Ours over PyTorch's: medians of the GPU's time, above 1 where we are slower. Of PyTorch's two measurements of a step the
 * faster one counts.
 */
export function ratios({ pytorch, pilotwave }) {
  return RIVALS.flatMap(({ accuracy, precision }) =>
    PARTS.flatMap(({ key, name, note, title }) => {
      const theirs = [pytorch.first, pytorch.again].flatMap((run) => run?.best?.[precision]?.[key] ?? []);
      const fits = (model) => model.name === name && (note === undefined || model.note === note);
      const ours = pilotwave[accuracy]?.models?.find(fits);
      if (theirs.length === 0 || !ours) return [];
      const best = theirs.reduce((a, b) => (b.ms < a.ms ? b : a));
      const figures = { pilotwaveMs: ours.ms, pytorchMs: best.ms, ratio: ours.ms / best.ms };
      const spreads = { pilotwaveSpread: ours.spread, pytorchSpread: best.spread };
      const wall = { pilotwaveWallMs: ours.wallMs ?? null, pytorchWallMs: best.wall_ms };
      return [{ part: title, accuracy, precision, ...figures, ...spreads, ...wall, error: ours.error ?? null }];
    }),
  );
}

const ms = (value) => `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ms`;

/** @returns lines of text */
export function table(result) {
  const rows = ratios(result).map(({ part, accuracy, precision, pilotwaveMs, pytorchMs, ratio, error }) => [
    part,
    `${accuracy} ${ms(pilotwaveMs)}`,
    `${precision} ${ms(pytorchMs)}`,
    ratio.toFixed(2),
    error === null ? '' : error.toExponential(1),
  ]);
  const all = [['', 'Pilotwave', 'PyTorch', 'ratio', 'error'], ...rows];
  const widths = all[0].map((_, i) => Math.max(...all.map((row) => row[i].length)));
  return all.map((row) => row.map((cell, i) => (i < 3 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  '));
}
