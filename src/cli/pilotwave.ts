#!/usr/bin/env node
/**
 * @file The command line.
 */
import { PilotwaveError } from '../runtime/errors.ts';
import { type CommandHelp, helpText } from './arguments.ts';
import { bench, benchHelp } from './bench.ts';
import { convert, convertHelp } from './convert.ts';
import { evaluate, evaluateHelp } from './evaluate.ts';
import { generate, generateHelp } from './generate.ts';
import { inspect, inspectHelp } from './inspect.ts';
import { invert, invertHelp } from './invert.ts';
import { likelihood, likelihoodHelp } from './likelihood.ts';
import { tune, tuneHelp } from './tune.ts';
import { verify, verifyHelp } from './verify/verify.ts';

interface Command {
  readonly help: CommandHelp;
  /** @returns the exit status */
  run(argv: readonly string[]): Promise<number>;
}

const COMMANDS: Readonly<Record<string, Command>> = {
  generate: { help: generateHelp, run: generate },
  likelihood: { help: likelihoodHelp, run: likelihood },
  invert: { help: invertHelp, run: invert },
  inspect: { help: inspectHelp, run: inspect },
  bench: { help: benchHelp, run: bench },
  tune: { help: tuneHelp, run: tune },
  convert: { help: convertHelp, run: convert },
  evaluate: { help: evaluateHelp, run: evaluate },
  verify: { help: verifyHelp, run: verify },
};

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === 'help') {
    const list = Object.values(COMMANDS).map(({ help }) => `  pilotwave ${help.usage}\n      ${help.summary}\n`);
    process.stdout.write(
      `Classifier-guided diffusion on WebGPU.\n\n${list.join('')}\nAny command with --help lists its options.\n`,
    );
    return 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!command) {
    console.error(`pilotwave: unknown command "${name}"; known are ${Object.keys(COMMANDS).join(', ')}`);
    return 2;
  }
  if (rest.includes('--help')) {
    process.stdout.write(helpText(command.help));
    return 0;
  }
  return command.run(rest);
}

let status: number;
try {
  status = await main(process.argv.slice(2));
} catch (error) {
  // What a user can mend is one line; anything else is a fault of ours, and wants its stack.
  console.error(error instanceof PilotwaveError ? `pilotwave: ${error.message}` : error);
  status = error instanceof PilotwaveError ? 2 : 70;
}
// Dawn's threads would keep the process alive. Standard output may be a pipe that is still draining.
process.stdout.write('', () => process.exit(status));
