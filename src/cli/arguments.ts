/**
 * @file Options of the command line: read, checked, and complained about in one line.
 */
import { parseArgs } from 'node:util';
import { OptionError } from '../runtime/errors.ts';
import type { Accuracy } from '../runtime/variants.ts';

export interface OptionDescription {
  readonly type: 'string' | 'boolean';
  readonly multiple?: boolean;
  /** What stands for the value in the help. */
  readonly value?: string;
  readonly help: string;
  /** The value may begin with dashes. */
  readonly anyText?: boolean;
  readonly default?: string;
}

export type OptionTable = Readonly<Record<string, OptionDescription>>;

/** Which adapter a command runs on; see `requestNodeDevice`. */
export const ADAPTER_OPTION = {
  type: 'string',
  value: 'NAME',
  help: 'auto, gpu, software, or a part of an adapter’s name',
  default: 'auto',
} as const satisfies OptionDescription;

/** How exact the variants that a command takes must be; see `Accuracy`. */
export const ACCURACY_OPTION = {
  type: 'string',
  value: 'CLASS',
  help: 'float32, or reduced: the least exact variants of kernels that may be taken',
  default: 'float32',
} as const satisfies OptionDescription;

export const accuracyOption = (text: string): Accuracy => choiceOption('accuracy', text, ['float32', 'reduced']);

export interface CommandHelp<T extends OptionTable = OptionTable> {
  readonly usage: string;
  readonly summary: string;
  readonly options: T;
}

type Value<D extends OptionDescription> = D['type'] extends 'boolean'
  ? boolean
  : D['multiple'] extends true
    ? string[] | undefined
    : D['default'] extends string
      ? string
      : string | undefined;

type Values<T extends OptionTable> = { -readonly [K in keyof T]: Value<T[K]> };

/** @throws OptionError for an unknown option, a missing value, or a value where none belongs */
export function readArguments<T extends OptionTable>(
  help: CommandHelp<T>,
  argv: readonly string[],
): { options: Values<T>; positionals: string[] } {
  const config = Object.fromEntries(
    Object.entries(help.options).map(([name, { type, multiple = false }]) => [name, { type, multiple }]),
  );
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({
      args: joinDashedValues(argv, help.options),
      options: config,
      allowPositionals: true,
      strict: true,
    });
  } catch (error) {
    throw new OptionError(complaint(error, help));
  }
  const options: Record<string, unknown> = {};
  for (const [name, description] of Object.entries(help.options)) {
    options[name] = parsed.values[name] ?? (description.type === 'boolean' ? false : description.default);
  }
  return { options: options as Values<T>, positionals: parsed.positionals };
}

/**
 * `--scale -1` means the number, not a further option, and text with a space in it is none either; parseArgs wants
 * `--scale=-1`.
 */
function joinDashedValues(argv: readonly string[], options: OptionTable): string[] {
  const joined: string[] = [];
  for (const argument of argv) {
    const before = joined.at(-1);
    const option = before?.startsWith('--') ? options[before.slice(2)] : undefined;
    const dashed = option?.anyText ? argument.startsWith('-') : /^-\d|^-\.\d|^-.*\s/s.test(argument);
    if (option?.type === 'string' && dashed) joined[joined.length - 1] = `${before}=${argument}`;
    else joined.push(argument);
  }
  return joined;
}

function complaint(error: unknown, { usage, options }: CommandHelp): string {
  const text = error instanceof Error ? error.message : String(error);
  const unknown = /Unknown option '([^']+)'/.exec(text);
  if (unknown) {
    return `unknown option ${unknown[1]}; known are ${Object.keys(options)
      .map((name) => `--${name}`)
      .join(', ')}`;
  }
  return `${text.replace(/\.? To specify.*$/s, '').replace(/\n.*$/s, '')} (usage: ${usage})`;
}

/** A number from an option. @throws OptionError naming the option */
export function numberOption(
  name: string,
  text: string,
  {
    min = Number.NEGATIVE_INFINITY,
    max = Number.POSITIVE_INFINITY,
    whole = false,
  }: { readonly min?: number; readonly max?: number; readonly whole?: boolean } = {},
): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value) || value < min || value > max || (whole && !Number.isSafeInteger(value))) {
    const kind = whole ? 'a whole number' : 'a number';
    const from = min === Number.NEGATIVE_INFINITY ? '' : ` from ${min}`;
    const bound = max === Number.POSITIVE_INFINITY ? from && `${from} on` : `${from} to ${max}`;
    throw new OptionError(`--${name} should be ${kind}${bound}, found "${text}"`);
  }
  return value;
}

/** Numbers separated by commas. @throws OptionError naming the option */
export function numberListOption(
  name: string,
  text: string,
  range: { readonly min?: number; readonly max?: number } = {},
): number[] {
  return text.split(',').map((part) => numberOption(name, part, range));
}

/** One of some words. @throws OptionError naming the option and the words */
export function choiceOption<T extends string>(name: string, text: string, choices: readonly T[]): T {
  if ((choices as readonly string[]).includes(text)) return text as T;
  throw new OptionError(`--${name} should be ${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}, found "${text}"`);
}

export function helpText({ usage, summary, options }: CommandHelp): string {
  const rows = Object.entries(options).map(([name, { value, help, default: fallback }]) => {
    const head = `  --${name}${value ? ` ${value}` : ''}`;
    return `${head.padEnd(34)} ${help}${fallback === undefined ? '' : ` (${fallback})`}`;
  });
  return `pilotwave ${usage}\n${summary}\n\n${rows.join('\n')}\n`;
}
