/**
 * @file `invert`: the x_T from which DDIM makes given pictures.
 */
import { writeSafetensors } from '../checkpoints/safetensors.ts';
import { ddimReverse } from '../diffusion/ddim.ts';
import type { SamplingStep } from '../diffusion/sampling.ts';
import { type OptionTable, readArguments } from './arguments.ts';
import { Progress } from './console.ts';
import { checkWritable, writeWhole } from './files.ts';
import { openPictures, PICTURE_OPTIONS } from './given_pictures.ts';

const OPTIONS = {
  ...PICTURE_OPTIONS,
  steps: { ...PICTURE_OPTIONS.steps, help: 'DDIM steps, the more the closer (100); generate should take as many' },
  out: { type: 'string', value: 'FILE', help: 'safetensors file with x_T', default: 'out/x_T.safetensors' },
} as const satisfies OptionTable;

export const invertHelp = {
  usage: 'invert FILE [options]',
  summary: 'runs DDIM backwards from pictures to x_T, which generate --noise takes as its start',
  options: OPTIONS,
};

const DEFAULT_STEPS = 100;

/** @returns the exit status */
export async function invert(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(invertHelp, argv);
  checkWritable(options.out);
  const opened = await openPictures(positionals, 'invert', options);
  const { denoiser, batches, picture, shape, adapter } = opened;
  const steps = opened.steps ?? DEFAULT_STEPS;
  const xT = new Float32Array(shape[0] * picture);
  const progress = new Progress('Inverting');
  let done = 0;
  for (const batch of batches) {
    let last: SamplingStep | null = null;
    const run = ddimReverse(denoiser, {
      start: batch.pictures,
      labels: batch.labels,
      respacing: `ddim${steps}`,
    });
    for await (const step of run) {
      progress.update(++done, batches.length * step.count, 'steps');
      last = step;
    }
    xT.set((await last!.sample()).subarray(0, batch.taken * picture), batch.first * picture);
  }
  const file = writeSafetensors(
    { x_T: { dtype: 'F32', shape: [...shape], data: xT } },
    { adapter: adapter.name, respacing: `ddim${steps}` },
  );
  writeWhole(options.out, file);
  if (options.json) {
    const report = { adapter: adapter.name, pictures: shape[0], steps, files: [options.out] };
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else process.stdout.write(`${options.out}\n`);
  opened.close();
  return 0;
}
