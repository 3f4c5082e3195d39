/** @file Results as tables of text. Pure. */
import {
  type BenchResult,
  type Direction,
  isFigure,
  type LayerTime,
  layerTotals,
  type ModelResult,
  type Row,
  type WrongModel,
} from './results.ts';

/** Three significant digits with a unit that suits the size. */
export function time(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toPrecision(3)} s`;
  return ms >= 1 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
}

const short = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

export function rate(perSecond: number, unit: string): string {
  return perSecond >= 1e12 ? `${short(perSecond / 1e12)} T${unit}` : `${short(perSecond / 1e9)} G${unit}`;
}

export const errorText = (error: number): string => error.toExponential(1);

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

export function peakLines({ peak, clock }: Pick<BenchResult, 'peak' | 'clock'>): string[] {
  return [
    `timed with ${clock}`,
    `FMA peak ${rate(peak.flops, 'FLOP/s')}, copy ${rate(peak.bandwidth, 'B/s')} (${peak.copyBytes / 2 ** 20} MiB, both ways), launch floor ${time(peak.launchMs)}`,
  ];
}

const HALF = ['time', '±', 'GFLOP/s', 'GB/s', 'share', 'error'] as const;
const WIDTHS = [9, 6, 8, 7, 6, 8] as const;

function half(row: Row, direction: Direction): string {
  const figure = row[direction];
  const cells = isFigure(figure)
    ? [
        time(figure.ms),
        percent(figure.spread),
        short(figure.flops / 1e9),
        short(figure.bandwidth / 1e9),
        percent(figure.share),
        errorText(figure.error),
      ]
    : ['wrong', '', '', '', '', errorText(figure.error)];
  return cells.map((cell, i) => cell.padStart(WIDTHS[i]!)).join(' ');
}

/** The rows of one shape, under its heading; a family's name where a new family begins. */
export function rowLines(rows: readonly Row[], newFamily: boolean): string[] {
  const [first] = rows;
  if (!first) return [];
  const titles = HALF.map((title, i) => title.padStart(WIDTHS[i]!)).join(' ');
  const head = newFamily
    ? [
        '',
        `${first.family} (share of ${first.memoryBound ? 'copy bandwidth' : 'FMA peak'})`,
        `  ${'variant'.padEnd(18)} ${'forward'.padEnd(titles.length)}   input gradient`,
        `  ${''.padEnd(18)} ${titles}   ${titles}`,
      ]
    : [];
  return [
    ...head,
    ` ${first.shape}   ${first.models}, ${first.note}`,
    ...rows.map((row) => {
      const mark = row.chosen ? '*' : ' ';
      return ` ${mark}${row.variant.padEnd(18)} ${half(row, 'forward')}   ${half(row, 'gradient')}   ${row.reason}`.trimEnd();
    }),
  ];
}

/** A model, and its time by kind of kernel. */
export function modelLines(model: ModelResult): string[] {
  const { name, note, batch, ms, spread, wallMs, error, dispatches, submits, bytes, peakBytes, share, layers } = model;
  const facts = [
    `${time(ms)} ± ${percent(spread)}`,
    ...(wallMs === undefined ? [] : [`${time(wallMs)} in a row`]),
    `${dispatches} dispatches in ${submits} ${submits === 1 ? 'submit' : 'submits'}`,
    `${(bytes / 1e6).toFixed(0)} MB moved, ${(peakBytes / 1e6).toFixed(1)} MB at most`,
    `${percent(share)} of peak`,
    ...(error === undefined ? [] : [`error ${errorText(error)}`]),
  ];
  const head = ['', `${name}, ${note}; ${batch} images: ${facts.join(', ')}`];
  if (layers.length === 0) return head;
  const sum = layers.reduce((total, layer) => total + layer.ms, 0);
  const { kinds, heaviest } = layerTotals(layers);
  const parts = Object.entries(kinds)
    .filter(([, part]) => part > 0)
    .sort((a, b) => b[1] - a[1]);
  const described = layers[0]!.work !== undefined;
  const slowest = described ? heaviest : [...layers].sort((a, b) => b.ms - a.ms).slice(0, 3);
  return [
    ...head,
    `  layers alone ${time(sum)}: ${parts.map(([kind, part]) => `${kind} ${percent(part / sum)}`).join(', ')}`,
    ...slowest.map((layer) => `  ${time(layer.ms).padStart(9)}  ${described ? workText(layer) : layer.name}`),
  ];
}

/** What many layers have in common, and how fast they do it. */
const workText = ({ work, flops, ms, layers = 1 }: LayerTime & { readonly layers?: number }): string =>
  `${String(layers).padStart(3)} × ${work}${flops ? `, ${rate(flops / (ms / 1e3), 'FLOP/s')}` : ''}`;

export const wrongLine = ({ name, note, batch, error, wrong }: WrongModel): string =>
  `\n${name}, ${note}; ${batch} images: error ${errorText(error)}, ${wrong}, so it is not timed`;
