/**
 * @file `likelihood`: bits per dimension of given pictures under a model.
 */
import { bitsPerDim } from '../diffusion/likelihood.ts';
import { numberOption, type OptionTable, readArguments } from './arguments.ts';
import { Progress } from './console.ts';
import { openPictures, PICTURE_OPTIONS } from './given_pictures.ts';

const OPTIONS = {
  ...PICTURE_OPTIONS,
  steps: { ...PICTURE_OPTIONS.steps, help: 'timesteps of the bound, evenly taken from those of the model (all)' },
  seed: { type: 'string', value: 'K', help: 'seed of the noise on the pictures', default: '0' },
} as const satisfies OptionTable;

export const likelihoodHelp = {
  usage: 'likelihood FILE [options]',
  summary: 'bits per dimension of pictures (PNG, or safetensors with a tensor "samples"): the variational bound',
  options: OPTIONS,
};

/** @returns the exit status */
export async function likelihood(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(likelihoodHelp, argv);
  const seed = numberOption('seed', options.seed, { min: 0, whole: true });
  const opened = await openPictures(positionals, 'likelihood', options);
  const { denoiser, batches, steps, labels } = opened;
  const progress = new Progress('Measuring');
  const total: number[] = [];
  const prior: number[] = [];
  for (const [index, batch] of batches.entries()) {
    const run = await bitsPerDim(denoiser, {
      pictures: batch.pictures,
      labels: batch.labels,
      respacing: steps === null ? '' : String(steps),
      seed,
      firstImage: batch.first,
      onStep: (step) => progress.update(index * step.count + step.index + 1, batches.length * step.count, 'steps'),
    });
    total.push(...run.total.slice(0, batch.taken));
    prior.push(...run.prior.slice(0, batch.taken));
  }
  const mean = total.reduce((sum, bits) => sum + bits, 0) / total.length;
  if (options.json) {
    const pictures = total.map((bits, i) => ({ label: labels[i], bitsPerDim: bits, prior: prior[i] }));
    process.stdout.write(`${JSON.stringify({ adapter: opened.adapter.name, mean, pictures })}\n`);
  } else {
    const lines = total.map((bits, i) => `picture ${i}: ${bits.toFixed(4)} bits per dimension`);
    process.stdout.write(`${[...lines, `mean: ${mean.toFixed(4)}`].join('\n')}\n`);
  }
  opened.close();
  return 0;
}
