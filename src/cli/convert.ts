/**
 * @file `pilotwave convert`: any checkpoint to a safetensors file that describes itself, in a number format of choice.
 */
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { convertCheckpoint, NUMBER_FORMATS, type NumberFormat } from '../checkpoints/convert.ts';
import { configFromFlags } from '../checkpoints/fit.ts';
import { parseFlags } from '../checkpoints/flags.ts';
import { OptionError } from '../runtime/errors.ts';
import { type CommandHelp, readArguments } from './arguments.ts';
import { openCheckpointFile } from './checkpoint_files.ts';
import { Progress } from './console.ts';
import { checkWritable, naming } from './files.ts';

export const convertHelp = {
  usage: 'convert IN OUT [options]',
  summary: 'Writes a checkpoint (safetensors, shards, PyTorch) as one safetensors file that describes itself.',
  options: {
    format: { type: 'string', value: 'FORMAT', help: 'number format of the weights: f32, f16 or int8', default: 'f16' },
    flags: {
      type: 'string',
      anyText: true,
      value: 'FLAGS',
      help: 'what the model is, in guided-diffusion’s flags, where IN does not say',
    },
    key: { type: 'string', value: 'KEY', help: 'where the weights lie in a PyTorch file' },
    json: { type: 'boolean', help: 'prints one JSON object on standard output' },
  },
} as const satisfies CommandHelp;

export async function convert(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(convertHelp, argv);
  const [input, output, ...more] = positionals;
  if (input === undefined || output === undefined || more.length > 0) {
    throw new OptionError(
      `convert takes the file to read and the file to write (usage: pilotwave ${convertHelp.usage})`,
    );
  }
  const format = NUMBER_FORMATS.find((known) => known === options.format);
  if (!format) throw new OptionError(`--format should be ${NUMBER_FORMATS.join(' or ')}, found "${options.format}"`);
  const flags = options.flags === undefined ? null : parseFlags(options.flags);
  checkWritable(output);

  const started = performance.now();
  const file = await openCheckpointFile(input, { key: options.key });
  const progress = new Progress('Converting');
  const partial = `${resolve(output)}.${process.pid}.partial`;
  let handle: FileHandle | null = null;
  try {
    const target = await open(partial, 'w');
    handle = target;
    const result = await naming(input, () =>
      convertCheckpoint(file, (bytes) => writeAll(target, bytes), {
        format: format satisfies NumberFormat,
        config: flags && configFromFlags(flags, file.tensors),
        onProgress: (done, total) => progress.update(done, total, 'tensors'),
      }),
    );
    await handle.close();
    await rename(partial, resolve(output));
    const seconds = (performance.now() - started) / 1000;
    if (result.reason !== null) {
      console.error(
        `${output} does not say which model it is (${result.reason}); give --flags to have it written down.`,
      );
    }
    const summary = {
      input,
      output,
      format,
      bytesRead: file.size,
      bytesWritten: result.bytes,
      tensors: result.tensors,
      seconds,
    };
    if (options.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
    else console.error(`${output}: ${megabytes(result.bytes)} as ${format}, from ${megabytes(file.size)}.`);
    return 0;
  } catch (error) {
    await handle?.close().catch(() => {});
    await rm(partial, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await handle.write(bytes, done);
    done += bytesWritten;
  }
}
