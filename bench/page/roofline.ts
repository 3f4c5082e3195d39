/** @file The roofline: what the chosen kernels reach, over the operations they do for each byte, under the measured peaks. */
import { escapeHtml } from '../../demo/shell/words.ts';
import type { Peak } from '../peak.ts';
import { type Direction, isFigure, type Row, rowKey } from '../results.ts';
import { rate } from '../tables.ts';

const HEIGHT = 236;
const LEFT = 44;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 34;
/** FLOP a byte, as powers of two. */
const FROM = -2;
const TO = 10;

export interface RooflineState {
  readonly peak: Peak | null;
  readonly rows: readonly Row[];
  readonly others: ReadonlyMap<string, Row> | null;
}

export function drawRoofline(host: HTMLElement, state: RooflineState): void {
  const width = host.clientWidth || 560;
  host.innerHTML = `<svg viewBox="0 0 ${width} ${HEIGHT}" height="${HEIGHT}" aria-hidden="true">${rooflineSvg(state, width)}</svg>`;
  const chosen = state.rows.filter((row) => row.chosen).length;
  const { peak } = state;
  host.setAttribute(
    'aria-label',
    peak
      ? `Roofline: ${chosen} chosen kernels under a peak of ${rate(peak.flops, 'FLOP/s')} and a copy bandwidth of ${rate(peak.bandwidth, 'B/s')}`
      : 'Roofline: nothing is measured yet',
  );
}

/** The inside of the SVG, `width` wide. */
export function rooflineSvg({ peak, rows, others }: RooflineState, width: number): string {
  const right = width - RIGHT;
  const bottom = HEIGHT - BOTTOM;
  const flops = peak?.flops ?? 1e12;
  const bandwidth = peak?.bandwidth ?? 1e11;
  const [low, high] = [Math.log10(flops) - 2.6, Math.log10(flops) + 0.45];
  const round = (v: number) => Math.round(v * 10) / 10;
  const x = (intensity: number) => {
    const place = Math.min(TO, Math.max(FROM, Math.log2(intensity)));
    return round(LEFT + ((place - FROM) / (TO - FROM)) * (right - LEFT));
  };
  const y = (reached: number) => {
    const place = Math.min(high, Math.max(low, Math.log10(reached)));
    return round(TOP + ((high - place) / (high - low)) * (bottom - TOP));
  };
  const parts: string[] = [];
  for (let e = Math.ceil(low); e <= high; e++) {
    const text = e >= 12 ? `${10 ** (e - 12)} T` : e >= 9 ? `${10 ** (e - 9)} G` : `${10 ** (e - 6)} M`;
    parts.push(`<line class="gl" x1="${LEFT}" x2="${right}" y1="${y(10 ** e)}" y2="${y(10 ** e)}"/>`);
    if (peak) parts.push(`<text x="${LEFT - 6}" y="${y(10 ** e) + 4}" text-anchor="end">${text}</text>`);
  }
  for (let e = FROM + 1; e < TO; e += 2) {
    const text = e < 0 ? `1/${2 ** -e}` : String(2 ** e);
    parts.push(`<line class="gl" x1="${x(2 ** e)}" x2="${x(2 ** e)}" y1="${TOP}" y2="${bottom}"/>`);
    parts.push(`<text x="${x(2 ** e)}" y="${bottom + 15}" text-anchor="middle">${text}</text>`);
  }
  parts.push(`<line class="ax" x1="${LEFT}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`);
  parts.push(`<text x="${right}" y="${HEIGHT - 3}" text-anchor="end">FLOP a byte</text>`);
  parts.push(`<text x="4" y="${HEIGHT - 3}">FLOP/s</text>`);
  if (!peak) return parts.join('');

  const ridge = flops / bandwidth;
  // The slope begins where it enters the plot.
  const start = Math.max(2 ** FROM, 10 ** low / bandwidth);
  parts.push(
    `<path class="roof" d="M${x(start)} ${y(bandwidth * start)}L${x(ridge)} ${y(flops)}L${x(2 ** TO)} ${y(flops)}"/>`,
  );
  const middle = Math.sqrt(start * ridge);
  const angle = (Math.atan2(y(flops) - y(bandwidth * start), x(ridge) - x(start)) * 180) / Math.PI;
  parts.push(
    `<text class="dark" text-anchor="middle" transform="translate(${x(middle)} ${y(bandwidth * middle) - 8}) rotate(${round(angle)})">copy ${rate(bandwidth, 'B/s')}</text>`,
  );
  parts.push(
    `<text class="dark" x="${right}" y="${y(flops) - 7}" text-anchor="end">FMA ${rate(flops, 'FLOP/s')}</text>`,
  );

  const point = (row: Row, direction: Direction) => {
    const figure = row[direction];
    if (!isFigure(figure) || !(row.intensity[direction] > 0)) return null;
    const title = `<title>${escapeHtml(`${row.family}, ${row.shape}, ${direction}: ${rate(figure.flops, 'FLOP/s')}`)}</title>`;
    return { x: x(row.intensity[direction]), y: y(figure.flops), title };
  };
  const chosen = rows.filter((row) => row.chosen);
  if (others) {
    for (const row of chosen) {
      const their = others.get(rowKey(row));
      const at = their && point(their, 'forward');
      if (at) {
        parts.push(
          `<rect class="pt" x="-3.500" y="-3.500" width="7" height="7" transform="translate(${at.x} ${at.y}) rotate(45)"/>`,
        );
      }
    }
  }
  for (const row of chosen) {
    const at = point(row, 'gradient');
    if (at) parts.push(`<circle class="pb" cx="${at.x}" cy="${at.y}" r="4">${at.title}</circle>`);
  }
  for (const row of chosen) {
    const at = point(row, 'forward');
    if (at) parts.push(`<circle class="pf" cx="${at.x}" cy="${at.y}" r="4">${at.title}</circle>`);
  }
  return parts.join('') + labels(chosen, point, right);
}

/** A name beside the highest point of each family. */
function labels(
  rows: readonly Row[],
  point: (row: Row, direction: Direction) => { x: number; y: number } | null,
  right: number,
): string {
  const best = new Map<string, { x: number; y: number }>();
  for (const row of rows) {
    const at = point(row, 'forward');
    const name = row.family.replace(' + SiLU', '').replace('Convolution ', '').toLowerCase();
    if (at && at.y < (best.get(name)?.y ?? Number.POSITIVE_INFINITY)) best.set(name, at);
  }
  const taken: number[] = [];
  return [...best]
    .sort((a, b) => a[1].y - b[1].y)
    .map(([name, at]) => {
      let textY = at.y + 4;
      while (taken.some((used) => Math.abs(used - textY) < 12)) textY += 12;
      taken.push(textY);
      const flip = at.x > right - 70;
      return `<text x="${at.x + (flip ? -9 : 9)}" y="${textY}" text-anchor="${flip ? 'end' : 'start'}">${escapeHtml(name)}</text>`;
    })
    .join('');
}
