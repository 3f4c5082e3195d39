/**
 * @file Figures as an SVG picture: small panels with lines, points and error bars.
 */
import type { Estimate } from './distances.ts';
import type { Figures, Row } from './figures.ts';
import { FORM_NAMES, FORMS, knowsClass } from './settings.ts';

interface Point {
  readonly x: number;
  readonly y: number;
  readonly error: number | null;
}

interface Series {
  readonly name: string;
  readonly colour: string;
  readonly dashed?: boolean;
  readonly points: readonly Point[];
}

interface Panel {
  readonly title: string;
  readonly xLabel: string;
  readonly ticks: readonly { readonly at: number; readonly label: string }[];
  readonly series: readonly Series[];
  /** A level to compare with, drawn across. */
  readonly level: number | null;
}

const WIDTH = 560;
const HEIGHT = 300;
const MARGIN = { left: 52, right: 136, top: 30, bottom: 44 };

/** Colour-blind safe (Okabe & Ito). */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];

/** Step of an axis with about `count` ticks: 1, 2 or 5 times a power of ten. */
function niceStep(range: number, count: number): number {
  const raw = range / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 5, 10].find((f) => f * power >= raw) ?? 10;
  return factor * power;
}

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

const fixed = (value: number): string => value.toFixed(1);

function drawPanel({ title, xLabel, ticks, series, level }: Panel): string {
  const points = series.flatMap((s) => s.points);
  const ys = points.flatMap(({ y, error }) => [y - (error ?? 0), y + (error ?? 0)]);
  if (level !== null) ys.push(level);
  const low = Math.min(0, ...ys);
  const high = Math.max(...ys, low + 1e-9);
  const step = niceStep(high - low, 5);
  const [bottom, top] = [Math.floor(low / step) * step, Math.ceil(high / step) * step];
  const [left, right] = [Math.min(...ticks.map((t) => t.at)), Math.max(...ticks.map((t) => t.at))];
  const plotWidth = WIDTH - MARGIN.left - MARGIN.right;
  const plotHeight = HEIGHT - MARGIN.top - MARGIN.bottom;
  const px = (x: number) => MARGIN.left + (0.04 + (0.92 * (x - left)) / (right - left || 1)) * plotWidth;
  const py = (y: number) => MARGIN.top + (1 - (y - bottom) / (top - bottom)) * plotHeight;

  const parts = [`<text x="${MARGIN.left}" y="18" font-weight="bold">${escaped(title)}</text>`];
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  for (let i = 0; i <= Math.round((top - bottom) / step); i++) {
    const y = bottom + i * step;
    const at = fixed(py(y));
    parts.push(`<path d="M${MARGIN.left} ${at}H${WIDTH - MARGIN.right}" stroke="#ddd"/>`);
    parts.push(`<text x="${MARGIN.left - 6}" y="${fixed(py(y) + 4)}" text-anchor="end">${y.toFixed(digits)}</text>`);
  }
  for (const { at, label } of ticks) {
    const y = HEIGHT - MARGIN.bottom + 16;
    parts.push(`<text x="${fixed(px(at))}" y="${y}" text-anchor="middle">${escaped(label)}</text>`);
  }
  parts.push(
    `<text x="${fixed(MARGIN.left + plotWidth / 2)}" y="${HEIGHT - 8}" text-anchor="middle">${escaped(xLabel)}</text>`,
  );
  if (level !== null) {
    const y = fixed(py(level));
    parts.push(`<path d="M${MARGIN.left} ${y}H${WIDTH - MARGIN.right}" stroke="#555" stroke-dasharray="2 3"/>`);
    parts.push(
      `<text x="${WIDTH - MARGIN.right - 2}" y="${fixed(py(level) - 4)}" text-anchor="end" fill="#555">real</text>`,
    );
  }
  series.forEach(({ name, colour, dashed, points: own }, i) => {
    if (own.length === 0) return;
    const path = own.map(({ x, y }, k) => `${k === 0 ? 'M' : 'L'}${fixed(px(x))} ${fixed(py(y))}`).join('');
    const dash = dashed ? ' stroke-dasharray="6 4"' : '';
    parts.push(`<path d="${path}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`);
    for (const { x, y, error } of own) {
      parts.push(`<circle cx="${fixed(px(x))}" cy="${fixed(py(y))}" r="3" fill="${colour}"/>`);
      if (error !== null) {
        parts.push(
          `<path d="M${fixed(px(x))} ${fixed(py(y - error))}V${fixed(py(y + error))}" stroke="${colour}" stroke-width="1"/>`,
        );
      }
    }
    const row = MARGIN.top + 12 + 14 * i;
    parts.push(`<path d="M${WIDTH - 130} ${row - 4}h18" stroke="${colour}" stroke-width="2"${dash}/>`);
    parts.push(`<text x="${WIDTH - 107}" y="${row}">${escaped(name)}</text>`);
  });
  return parts.join('\n');
}

const pointOf = (x: number, { value, error }: Estimate): Point => ({ x, y: value, error });

/** Panels of the sweeps that the rows belong to. @param levels what real pictures get, by their number */
export function plot(rows: readonly Row[], levels: ReadonlyMap<number, Figures>): string {
  const bySampler: Panel[][] = [];
  for (const sampler of ['ddim', 'ddpm'] as const) {
    const own = rows.filter(
      ({ setting }) => setting.sampler === sampler && (setting.form === 'none' || setting.form === 'sigma'),
    );
    const scales = [...new Set(own.map(({ setting }) => setting.scale))].sort((a, b) => a - b);
    if (scales.length < 2) continue;
    // Scales are evenly spaced powers of two, with 0 before them.
    const ticks = scales.map((scale, at) => ({ at, label: String(scale) }));
    const lines = (read: (figures: Figures) => Estimate, name = '', colours = 0, among = own): Series[] =>
      [false, true].map((conditional, i) => ({
        name: `${name}${conditional ? 'class' : 'null class'}`,
        colour: COLOURS[colours + i]!,
        dashed: colours > 0,
        points: among
          .filter(({ setting }) => setting.conditional === conditional)
          .map(({ setting, figures }) => pointOf(scales.indexOf(setting.scale), read(figures))),
      }));
    // A Fréchet distance depends on the number of pictures: with several there is no one level.
    const counts = new Set(own.map(({ pictures }) => pictures));
    const real = levels.get(Math.max(...counts)) ?? null;
    const classed = own.filter(({ setting }) => knowsClass(setting));
    const title = sampler.toUpperCase();
    const common = { xLabel: 'guidance scale', ticks };
    bySampler.push([
      {
        ...common,
        title: `${title}: Fréchet distance (lower is better)`,
        series: lines((f) => f.frechet),
        level: counts.size === 1 ? (real?.frechet.value ?? null) : null,
      },
      {
        ...common,
        title: `${title}: kernel distance by class (lower is better)`,
        series: lines((f) => f.classKernel, '', 0, classed),
        level: real?.classKernel.value ?? null,
      },
      {
        ...common,
        title: `${title}: precision and variety`,
        series: [...lines((f) => f.precision, 'precision, ', 0), ...lines((f) => f.variety, 'variety, ', 2, classed)],
        level: null,
      },
      {
        ...common,
        title: `${title}: agreement with the asked class`,
        series: lines((f) => f.agreement),
        level: real?.agreement.value ?? null,
      },
      {
        ...common,
        title: `${title}: inception score of the judge`,
        series: lines((f) => f.inception),
        level: real?.inception.value ?? null,
      },
    ]);
  }
  // A measure a line, the samplers beside each other.
  const panels = (bySampler[0] ?? []).flatMap((_, i) => bySampler.map((own) => own[i]!));
  panels.push(...formPanels(rows));
  const columns = 2;
  const height = Math.ceil(panels.length / columns) * HEIGHT;
  const body = panels.map(
    (panel, i) =>
      `<g transform="translate(${(i % columns) * WIDTH} ${Math.floor(i / columns) * HEIGHT})">\n${drawPanel(panel)}\n</g>`,
  );
  const size = `width="${columns * WIDTH}" height="${height}" viewBox="0 0 ${columns * WIDTH} ${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="11">
<title>What the scale and the form of guidance do, by measure</title>
<rect width="100%" height="100%" fill="#fff"/>
${body.join('\n')}
</svg>
`;
}

/** Each form's figures over the agreement it reaches: a form that is better lies lower, or higher. */
function formPanels(rows: readonly Row[]): Panel[] {
  const own = rows.filter(({ setting }) => setting.sampler === 'ddpm' && !setting.conditional);
  const forms = FORMS.filter((form) => form !== 'none' && own.some(({ setting }) => setting.form === form));
  if (forms.length < 2) return [];
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((at) => ({ at, label: at.toFixed(1) }));
  const panel = (title: string, read: (figures: Figures) => Estimate): Panel => ({
    title,
    xLabel: 'agreement with the asked class',
    ticks,
    level: null,
    series: forms.map((form, i) => ({
      name: FORM_NAMES[form],
      colour: COLOURS[i]!,
      points: own
        .filter(({ setting }) => setting.form === form)
        .map(({ figures }) => pointOf(figures.agreement.value, read(figures))),
    })),
  });
  return [
    panel('DDPM, null class: kernel distance by class', (f) => f.classKernel),
    panel('DDPM, null class: variety', (f) => f.variety),
  ];
}
