/** @file The tables: a section a family, a group a shape, a line a variant, forward and input gradient side by side. */
import { make } from '../../demo/shell/dom.ts';
import { icon } from '../../demo/shell/icons.ts';
import { digits, milliseconds } from '../../demo/shell/words.ts';
import type { KernelCase } from '../kernels.ts';
import { type Direction, type Figure, isFigure, type Row, rowKey } from '../results.ts';

const DIRECTIONS: readonly Direction[] = ['forward', 'gradient'];
const LETTER = { forward: 'f', gradient: 'b' } as const;
const TITLE = { forward: 'forward', gradient: 'gradient' } as const;

/** 100 % lies here in a share's bar, so that what passes it can be seen. */
const FULL = 1.15;

export const errorWords = (error: number): string => (error === 0 ? '0' : error.toExponential(1).replace('e-', 'e−'));

export interface TablesState {
  /** Cases to be run or that were run, in order. */
  readonly cases: readonly Pick<KernelCase, 'family' | 'shape' | 'models' | 'memoryBound'>[];
  readonly rows: readonly Row[];
  /** Another run's rows by their keys. */
  readonly others: ReadonlyMap<string, Row> | null;
}

export function drawTables(host: HTMLElement, { cases, rows, others }: TablesState): void {
  const closed = new Set(
    [...host.querySelectorAll<HTMLDetailsElement>('details:not([open])')].map((d) => d.dataset['family']),
  );
  const families = [...new Set(cases.map(({ family }) => family))];
  host.replaceChildren(
    ...families.map((family) => {
      const shapes = cases.filter((c) => c.family === family);
      const own = rows.filter((row) => row.family === family);
      const details = make(
        'details',
        { class: 'family', 'data-family': family, open: !closed.has(family) },
        make(
          'summary',
          {},
          icon('chevron', 'icon chev'),
          make('h2', {}, family),
          make('span', { class: 'best' }, bestOf(own)),
        ),
        table(shapes, own, others),
      );
      return details;
    }),
  );
}

/** The best share that a chosen variant has. */
function bestOf(rows: readonly Row[]): string {
  const figures = rows.filter((row) => row.chosen && isFigure(row.forward)).map((row) => row.forward as Figure);
  if (figures.length === 0) return '';
  const best = Math.max(...figures.map(({ share }) => share));
  return `best ${Math.round(100 * best)} % of ${rows[0]!.memoryBound ? 'bandwidth' : 'peak'}`;
}

function table(
  shapes: TablesState['cases'],
  rows: readonly Row[],
  others: ReadonlyMap<string, Row> | null,
): HTMLElement {
  const columns = ['c-v', ...DIRECTIONS.flatMap(() => ['c-t', 'c-g', 'c-b', 'c-s', 'c-e']), 'c-w'];
  const unit = shapes[0]!.memoryBound ? '% of copy' : '% of peak';
  const head = (text: string, attributes: Record<string, string | number> = {}) =>
    make('th', { scope: 'col', role: 'columnheader', ...attributes }, text);
  const titles = [others ? 'time and ratio' : 'time', 'GFLOP/s', 'GB/s', unit, 'error'];
  const letters = ['t', 'g', 'b', 's', 'e'];
  const body = make('tbody', { role: 'rowgroup' });
  for (const shape of shapes) {
    const own = rows.filter((row) => row.shape === shape.shape && row.models === shape.models);
    const note = own[0] ? `${shape.models}, ${own[0].note}` : `${shape.models}, not run yet`;
    body.append(
      make(
        'tr',
        { class: 'shape', role: 'row' },
        make('th', { colspan: 12, scope: 'rowgroup', role: 'rowheader' }, shape.shape, make('span', {}, note)),
      ),
      ...own.map((row) => line(row, others?.get(rowKey(row)) ?? null, others !== null)),
    );
  }
  return make(
    'table',
    { class: 'kt', role: 'table' },
    make('colgroup', {}, ...columns.map((name) => make('col', { class: name }))),
    make(
      'thead',
      { role: 'rowgroup' },
      make(
        'tr',
        { role: 'row' },
        make('th'),
        make('th', { class: 'g', colspan: 5, scope: 'colgroup' }, make('span', {}, 'Forward')),
        make('th', { class: 'g', colspan: 5, scope: 'colgroup' }, make('span', {}, 'Input gradient')),
        make('th'),
      ),
      make(
        'tr',
        { role: 'row' },
        head('variant'),
        ...DIRECTIONS.flatMap((d) =>
          titles.map((t, i) => head(t, { class: `${i === 0 ? 'g ' : ''}${letters[i]}${LETTER[d]}` })),
        ),
        head('why it stays in the list', { class: 'why' }),
      ),
    ),
    body,
  );
}

function line(row: Row, other: Row | null, comparing: boolean): HTMLElement {
  const { variant, chosen, reason } = row;
  const element = make(
    'tr',
    { class: chosen ? 'pick' : 'lose', role: 'row' },
    make(
      'td',
      { class: 'v', role: 'cell' },
      make('span', { class: 'mono' }, variant),
      chosen && make('span', { class: 'tag' }, 'chosen'),
    ),
    ...DIRECTIONS.flatMap((direction) => half(row, other, direction, comparing)),
    make('td', { class: 'why', role: 'cell' }, reason),
  );
  // On phones a losing variant shows its rates when it is touched.
  if (!chosen) element.addEventListener('click', () => element.classList.toggle('open'));
  return element;
}

function half(row: Row, other: Row | null, direction: Direction, comparing: boolean): HTMLElement[] {
  const d = LETTER[direction];
  const figure = row[direction];
  const cell = (name: string, title: string | null, ...children: (Node | string | null)[]) =>
    make('td', { class: name, role: 'cell', 'data-c': title }, ...children);
  if (!isFigure(figure)) {
    return [
      cell(`g t${d}`, TITLE[direction], 'wrong'),
      cell(`g${d}`, null),
      cell(`b${d}`, null),
      cell(`share s${d}`, null),
      cell(`e${d} bad`, 'error', errorWords(figure.error)),
    ];
  }
  const theirs = other?.[direction];
  const ratio = comparing
    ? make('span', { class: 'x' }, theirs && isFigure(theirs) ? `${(figure.ms / theirs.ms).toFixed(2)}×` : '–')
    : make('span', { class: 'pm' }, `±${(100 * figure.spread).toFixed(figure.spread < 0.0995 ? 1 : 0)} %`);
  const bar = make('i');
  bar.style.setProperty('--w', `${Math.min(100, (100 * figure.share) / FULL)}%`);
  return [
    cell(`g t${d}`, TITLE[direction], make('span', { class: 't' }, milliseconds(figure.ms)), ratio),
    cell(`g${d}`, 'GFLOP/s', figure.flops > 0 ? digits(figure.flops / 1e9) : '–'),
    cell(`b${d}`, 'GB/s', digits(figure.bandwidth / 1e9)),
    cell(`share s${d}`, null, make('div', {}, bar, make('span', {}, String(Math.round(100 * figure.share))))),
    cell(`e${d}`, 'error', errorWords(figure.error)),
  ];
}
