/** @file Numbers, ticks, advice: what the pages say. */
import { expect, test } from 'vitest';
import { columns } from '../../demo/grid.ts';
import { adviceFor, readVisitor } from '../../demo/no_webgpu.ts';
import { decades, plotSvg, stepTicks } from '../../demo/plot.ts';
import { bytes, digits, duration, milliseconds, probability } from '../../demo/shell/words.ts';

test('numbers have three significant digits and a unit', () => {
  expect([0.5, 12.34, 123.4, 12345, -3.217, 0.0123, 0.00012].map(digits)).toEqual([
    '0.50',
    '12.3',
    '123',
    '12\u2009345',
    '−3.22',
    '0.012',
    '1.2e−4',
  ]);
  expect([0.0031, 61.2, 4100].map(milliseconds)).toEqual(['3.10 µs', '61.2 ms', '4.10 s']);
  expect([820, 2784120, 3.1e9].map(bytes)).toEqual(['0.82 kB', '2.8 MB', '3.10 GB']);
  expect([0.62, 41.2, 130].map(duration)).toEqual(['0.6 s', '41 s', '2 min 10 s']);
  expect([0.9949, 0.996, 0.001].map(probability)).toEqual(['0.99', '1.00', '0.00']);
});

test('ticks are round, and neither end is crowded', () => {
  expect(stepTicks(25)).toEqual([1, 5, 10, 15, 20, 25]);
  expect(stepTicks(3)).toEqual([1, 2, 3]);
  expect(stepTicks(1)).toEqual([1]);
  expect(stepTicks(1000)).toEqual([1, 200, 400, 600, 800, 1000]);
  expect(decades([[0.5, 30]]).range).toEqual([0.1, 100]);
  expect(decades([[Number.NaN, 0]]).range).toEqual([1, 1000]);
});

test('a plot leaves holes out and stays finite', () => {
  const spec = { count: 5, at: 4, range: [1, 100] as const, log: true, ticks: [], sentence: '' };
  const svg = plotSvg({ ...spec, lines: [{ values: [10, Number.NaN, 0, 20], kind: 'main', label: String }] }, 300);
  expect(svg).not.toMatch(/NaN|Infinity/);
  expect(/class="main" d="([^"]+)"/.exec(svg)![1]!.match(/[ML]/g)).toEqual(['M', 'L']);
  expect(svg).toContain('>20<');
});

test('advice for the visitor’s own browser and system comes first', () => {
  const chrome =
    'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36';
  const firefox = 'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0';
  const iphone =
    'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Safari/604.1';
  const mac = 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.6 Safari/605.1.15';
  expect(readVisitor(chrome)).toEqual({ browser: 'chrome', system: 'linux', version: 120 });
  expect(readVisitor(mac)).toEqual({ browser: 'safari', system: 'macos', version: 17 });
  expect(readVisitor(mac, 5).system, 'an iPad that says it is a Mac').toBe('ios');
  for (const [agent, title] of [
    [chrome, 'Chrome, Edge on Linux'],
    [firefox, 'Firefox'],
    [iphone, 'iPhone and iPad'],
    [mac, 'Safari on the Mac'],
  ] as const) {
    const [first] = adviceFor(readVisitor(agent));
    expect(first!.advice.title).toBe(title);
    expect(first!.here).toBe(true);
  }
  expect(adviceFor(readVisitor('Lynx/2.9')).some(({ here }) => here)).toBe(false);
});

test('a grid has whole rows', () => {
  expect([1, 5, 10, 12, 16, 32, 64].map(columns)).toEqual([5, 5, 5, 6, 8, 8, 10]);
});
