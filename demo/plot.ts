/** @file A small line plot over the steps of a run: axis, grid, one line in focus, a needle. Numbers in, SVG out. */
import { escapeHtml } from './shell/words.ts';

export interface Line {
  /** One value a step; NaN where there is none. */
  readonly values: readonly number[];
  readonly kind: 'main' | 'other' | 'second';
  /** Written beside the needle, with the value there. */
  readonly label?: (value: number) => string;
}

export interface PlotSpec {
  /** Steps on the axis. */
  readonly count: number;
  /** Steps done at the needle; 0 for none. */
  readonly at: number;
  readonly range: readonly [number, number];
  readonly log?: boolean;
  readonly ticks: readonly (readonly [number, string])[];
  readonly lines: readonly Line[];
  /** A dashed level with its name. */
  readonly reference?: { readonly value: number; readonly text: string };
  /** The plot in one sentence, for those who do not see it. */
  readonly sentence: string;
}

const HEIGHT = 172;
const LEFT = 30;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 20;
const LINE_HEIGHT = 14;

/** Round step numbers for the axis: the first, the last, and about five between. */
export function stepTicks(count: number): number[] {
  if (count <= 6) return Array.from({ length: count }, (_, i) => i + 1);
  const rough = count / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.99) ?? 10 * power;
  const between = Array.from({ length: Math.floor(count / step) }, (_, i) => (i + 1) * step);
  // The first and the last are written out, so a neighbour that would touch them goes.
  const kept = between.filter((k) => k - 1 > count * 0.09 && count - k > count * 0.09);
  return [1, ...kept, count];
}

export function drawPlot(host: HTMLElement, spec: PlotSpec): void {
  const width = host.clientWidth || 296;
  host.innerHTML = `<svg viewBox="0 0 ${width} ${HEIGHT}" height="${HEIGHT}" aria-hidden="true">${plotSvg(spec, width)}</svg>`;
  host.setAttribute('aria-label', spec.sentence);
}

/** The inside of the SVG, `width` wide. */
export function plotSvg({ count, at, range, log = false, ticks, lines, reference }: PlotSpec, width: number): string {
  const place = log ? Math.log10 : (v: number) => v;
  const [low, high] = [place(range[0]), place(range[1])];
  const bottom = HEIGHT - BOTTOM;
  const right = width - RIGHT;
  const x = (step: number) => round(LEFT + (count === 1 ? 1 : (step - 1) / (count - 1)) * (right - LEFT));
  const y = (value: number) =>
    round(TOP + ((high - Math.min(high, Math.max(low, place(value)))) / (high - low)) * (bottom - TOP));
  const shown = (value: number | undefined): value is number =>
    value !== undefined && !Number.isNaN(value) && !(log && value <= 0);

  const parts: string[] = [];
  for (const [value, text] of ticks) {
    parts.push(`<line class="gl" x1="${LEFT}" x2="${right}" y1="${y(value)}" y2="${y(value)}"/>`);
    parts.push(`<text x="${LEFT - 6}" y="${y(value) + 4}" text-anchor="end">${text}</text>`);
  }
  for (const step of stepTicks(count)) {
    const last = step === count && count > 1;
    parts.push(`<line class="ax" x1="${x(step)}" x2="${x(step)}" y1="${bottom}" y2="${bottom + 4}"/>`);
    const anchor = last ? 'end' : 'middle';
    parts.push(
      `<text x="${last ? right + 4 : x(step)}" y="${HEIGHT - 4}" text-anchor="${anchor}">${step === 1 ? 'step 1' : step}</text>`,
    );
  }
  parts.push(`<line class="ax" x1="${LEFT}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`);
  if (reference) {
    const level = y(reference.value);
    parts.push(`<line class="ref" x1="${LEFT}" x2="${right}" y1="${level}" y2="${level}"/>`);
    parts.push(`<text x="${right}" y="${level + 13}" text-anchor="end">${escapeHtml(reference.text)}</text>`);
  }
  if (at > 0 && at < count) {
    parts.push(`<line class="cur" x1="${x(at)}" x2="${x(at)}" y1="${TOP}" y2="${bottom}"/>`);
  }

  const labels: { y: number; text: string; kind: Line['kind'] }[] = [];
  for (const { values, kind, label } of lines) {
    let path = '';
    let last: number | null = null;
    values.slice(0, at).forEach((value, i) => {
      if (!shown(value)) return;
      path += `${path === '' ? 'M' : 'L'}${x(i + 1)} ${y(value)}`;
      last = i;
    });
    if (last === null) continue;
    parts.push(`<path class="${kind}" d="${path}"/>`);
    const value = values[last]!;
    if (kind === 'main') parts.push(`<circle class="dot" cx="${x(last + 1)}" cy="${y(value)}" r="4"/>`);
    if (label) labels.push({ y: y(value), text: label(value), kind });
  }
  const flip = at > 0 && x(at) > LEFT + 0.62 * (right - LEFT);
  const textX = at > 0 ? x(at) + (flip ? -9 : 9) : 0;
  for (const { at: baseline, text, kind } of spread(labels)) {
    const style = kind === 'main' ? 'strong' : 'dark';
    parts.push(
      `<text class="${style}" x="${textX}" y="${baseline}" text-anchor="${flip ? 'end' : 'start'}">${escapeHtml(text)}</text>`,
    );
  }
  return parts.join('');
}

/** Baselines below the points, or above where two would overlap or one would fall out of the plot. */
function spread<T extends { y: number }>(labels: readonly T[]): (T & { at: number })[] {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  return sorted.map((label, i) => {
    const upper = i === 0 && sorted.length > 1;
    const wanted = upper ? label.y - 7 : label.y + 16;
    const low = HEIGHT - BOTTOM - 5;
    if (wanted > low) return { ...label, at: label.y - 8 };
    const above = sorted[i - 1];
    const crowded = above && wanted < above.y + LINE_HEIGHT;
    return { ...label, at: Math.max(TOP + 8, crowded ? above.y + LINE_HEIGHT + 4 : wanted) };
  });
}

const round = (value: number): number => Math.round(value * 10) / 10;

/** A logarithmic range in whole decades around the values, and its ticks. */
export function decades(series: readonly (readonly number[])[]): Pick<PlotSpec, 'range' | 'ticks'> {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const values of series) {
    for (const v of values) {
      if (!(v > 0)) continue;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  }
  if (!(low <= high)) [low, high] = [1, 1000];
  let from = Math.floor(Math.log10(low));
  let to = Math.max(from + 2, Math.ceil(Math.log10(high)));
  if (to - from > 6) from = to - 6; // a gradient that vanishes would flatten everything else
  to = Math.max(to, from + 2);
  const every = to - from > 4 ? 2 : 1;
  const ticks: [number, string][] = [];
  for (let e = from; e <= to; e += every) ticks.push([10 ** e, decadeText(e)]);
  return { range: [10 ** from, 10 ** to], ticks };
}

const decadeText = (e: number): string =>
  e < -2 ? `1e−${-e}` : e < 3 ? String(10 ** e) : e < 6 ? `${10 ** (e - 3)}k` : `1e${e}`;
