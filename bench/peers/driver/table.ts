/** @file The report as text. */
import type { CaseReport, Measurement } from './rounds.ts';

const ROW = ['contestant', 'ms', 'least', 'most', 'ratio', 'GFLOP/s', 'first', 'disp', 'subm', 'groups', 'MB', 'error'];
const WIDTHS = [12, 10, 10, 10, 7, 8, 8, 6, 6, 7, 8, 9];

const line = (cells: readonly string[]): string =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[i]!) : cell.padStart(WIDTHS[i]!))).join(' ');

export function tableOf({ name, multiplyAdds, load, measurements }: CaseReport): string {
  const gmac = multiplyAdds > 0 ? `, ${(multiplyAdds / 1e9).toFixed(3)} GMAC` : '';
  const rows = measurements.map((m) => rowOf(m, multiplyAdds));
  return [`## ${name}${gmac} (load ${load.join(' to ')})`, line(ROW), ...rows].join('\n');
}

function rowOf(m: Measurement, products: number): string {
  const { contestant, median, least, most, counts, error, firstMs, ratio } = m;
  if (median === undefined || m.problem !== undefined) return `${contestant.padEnd(WIDTHS[0]!)} ${m.problem}`;
  const digits = (value: number | undefined, places = 2) => (value === undefined ? '-' : value.toFixed(places));
  return line([
    contestant,
    digits(median),
    digits(least),
    digits(most),
    digits(ratio),
    products > 0 ? digits((2 * products) / median / 1e6) : '-',
    digits(firstMs, 0),
    String(counts?.dispatches ?? '-'),
    String(counts?.submits ?? '-'),
    String(counts?.bindGroups ?? '-'),
    digits((counts?.heldBytes ?? 0) / 1e6, 1),
    error?.toExponential(1) ?? '-',
  ]);
}
