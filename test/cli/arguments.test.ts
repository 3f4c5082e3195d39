import { describe, expect, test } from 'vitest';
import { helpText, numberOption, readArguments } from '../../src/cli/arguments.ts';
import { duration } from '../../src/cli/console.ts';
import { parseVariants } from '../../src/runtime/variants.ts';

const help = {
  usage: 'try [options]',
  summary: 'tries',
  options: {
    scale: { type: 'string', value: 'S', help: 'a number' },
    class: { type: 'string', multiple: true, help: 'names' },
    adapter: { type: 'string', help: 'which', default: 'auto' },
    json: { type: 'boolean', help: 'as JSON' },
  },
} as const;

describe('options', () => {
  test('are read, with defaults for what is left out', () => {
    expect(readArguments(help, ['--class', 'a', 'x', '--class=b', '--json'])).toEqual({
      options: { scale: undefined, class: ['a', 'b'], adapter: 'auto', json: true },
      positionals: ['x'],
    });
  });

  test('a negative number is a value', () => {
    expect(readArguments(help, ['--scale', '-1.5']).options.scale).toBe('-1.5');
    expect(readArguments(help, ['--scale', '--a 1 --b 2', '--json']).options).toMatchObject({
      scale: '--a 1 --b 2',
      json: true,
    });
  });

  test.each([
    [['--scal', '1'], 'unknown option --scal; known are --scale, --class, --adapter, --json'],
    [['--scale'], 'argument missing'],
    [['--json=yes'], 'does not take an argument'],
    [['-x'], 'unknown option -x'],
  ])('%j is refused in one line', (argv, message) => {
    expect(() => readArguments(help, argv)).toThrow(message);
    try {
      readArguments(help, argv);
    } catch (error) {
      expect((error as Error).message).not.toContain('\n');
    }
  });

  test('numbers', () => {
    expect(numberOption('scale', '2.5')).toBe(2.5);
    expect(numberOption('scale', '-1e3')).toBe(-1000);
    for (const text of ['', ' ', 'two', '1x', 'NaN', 'Infinity']) {
      expect(() => numberOption('scale', text)).toThrow('--scale should be a number');
    }
    expect(() => numberOption('count', '1.5', { min: 1, whole: true })).toThrow(
      '--count should be a whole number from 1 on, found "1.5"',
    );
    expect(() => numberOption('count', '0', { min: 1, whole: true })).toThrow('found "0"');
  });

  test('the help lists each option once', () => {
    for (const name of Object.keys(help.options)) expect(helpText(help).split(`--${name}`).length).toBe(2);
  });
});

test.each([
  [0.04, '0.0 s'],
  [9.94, '9.9 s'],
  [9.96, '10 s'],
  [99.4, '99 s'],
  [100, '1 min 40 s'],
  [119.7, '2 min 0 s'],
])('%f seconds are "%s"', (seconds, text) => expect(duration(seconds)).toBe(text));

describe('forced variants', () => {
  test('are pairs of kind and name', () => {
    expect(parseVariants('conv2d=winograd 2x2, linear = lanes')).toEqual({ conv2d: 'winograd 2x2', linear: 'lanes' });
  });

  test.each(['', 'conv2d', 'conv2d=', 'conv3d=registers', 'conv2d=a=b', 'conv2d=registers,'])(
    '"%s" is refused',
    (text) => {
      expect(() => parseVariants(text)).toThrow(`found "${text}"`);
    },
  );
});
