/** @file The report as text. */
import { type CaseReport, type Measurement, MISSING } from './rounds.ts';

const COLUMNS = {
  contestant: 12,
  ms: 10,
  least: 10,
  most: 10,
  ratio: 7,
  'GFLOP/s': 8,
  peak: 5,
  first: 7,
  disp: 5,
  subm: 5,
  groups: 6,
  MB: 7,
  error: 8,
};

const line = (cells: readonly string[]): string =>
  Object.values(COLUMNS)
    .map((width, i) => (i === 0 ? cells[i]!.padEnd(width) : cells[i]!.padStart(width)))
    .join(' ');

const gflopsOf = (products: number, ms: number): number => (2 * products) / ms / 1e6;

/**
 * GFLOP/s of multiply-adds in registers, by the run's own measurement; null without one. Of its least time, as shares are:
 * whatever else the machine does can only add to a time, and it does not do the same in two cases.
 */
export function peakOf(cases: readonly CaseReport[]): number | null {
  const found = cases.find(({ sizes }) => sizes.op === 'fma');
  const least = found?.measurements.find((m) => m.least !== undefined)?.least;
  return found && least ? gflopsOf(found.multiplyAdds, least) : null;
}

export function tableOf({ name, sizes, multiplyAdds, load, measurements }: CaseReport, peak: number | null): string {
  const gmac = multiplyAdds > 0 ? `, ${(multiplyAdds / 1e9).toFixed(3)} GMAC` : '';
  const missing = measurements
    .filter(({ contestant, problem }) => problem === MISSING && contestant !== 'adapter')
    .map(({ contestant }) => contestant);
  const rows = measurements
    .filter(({ problem }) => problem !== MISSING)
    .map((m) => rowOf(m, multiplyAdds, peak) + (sizes.op === 'copy' ? rateOf(m, 32 * sizes.threads) : ''));
  return [
    `## ${name}${gmac} (load ${load.join(' to ')})`,
    line(Object.keys(COLUMNS)),
    ...rows,
    ...(missing.length > 0 && missing.length < measurements.length - 1 ? [`without: ${missing.join(', ')}`] : []),
  ].join('\n');
}

const rateOf = ({ median }: Measurement, bytes: number): string =>
  median === undefined ? '' : ` (${(bytes / median / 1e6).toFixed(1)} GB/s)`;

function rowOf(m: Measurement, products: number, peak: number | null): string {
  const { contestant, median, least, most, counts, error, firstMs, ratio } = m;
  if (median === undefined || m.problem !== undefined) return `${contestant.padEnd(COLUMNS.contestant)} ${m.problem}`;
  const digits = (value: number | undefined, places = 2) => (value === undefined ? '-' : value.toFixed(places));
  return line([
    contestant,
    digits(median),
    digits(least),
    digits(most),
    digits(ratio),
    products > 0 ? gflopsOf(products, median).toFixed(2) : '-',
    products > 0 && least && peak ? `${((100 * gflopsOf(products, least)) / peak).toFixed(0)}%` : '-',
    digits(firstMs, 0),
    String(counts?.dispatches ?? '-'),
    String(counts?.submits ?? '-'),
    String(counts?.bindGroups ?? '-'),
    digits((counts?.heldBytes ?? 0) / 1e6, 1),
    error?.toExponential(1) ?? '-',
  ]);
}
