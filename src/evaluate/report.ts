/**
 * @file Figures as Markdown tables, put between two marks of a document that people write around them.
 */
import type { Estimate } from './distances.ts';
import { atAgreement, type Figures, type Row } from './figures.ts';
import { FORM_NAMES, FORMS, knowsClass, type SamplerName } from './settings.ts';

export const BEGIN = '<!-- begin: written by npm run evaluate -->';
export const END = '<!-- end: written by npm run evaluate -->';

const SAMPLER_NAMES: Readonly<Record<SamplerName, string>> = { ddim: 'DDIM', ddpm: 'DDPM' };

export interface ReportInputs {
  readonly rows: readonly Row[];
  /** What real pictures get, by the number of pictures. */
  readonly real: ReadonlyMap<number, Figures>;
  readonly adapters: readonly string[];
  readonly respacing: Readonly<Record<string, string>>;
  readonly referenceCount: number;
  readonly seconds: number;
  readonly date: string;
}

const estimate = ({ value, error }: Estimate, digits: number, factor = 1): string => {
  const main = (value * factor).toFixed(digits);
  return error === null ? main : `${main} ± ${(error * factor).toFixed(digits)}`;
};

/** @param byClass whether the pictures were made for classes */
const cells = (figures: Figures, byClass = true): string[] => [
  estimate(figures.kernel, 1, 100),
  byClass ? estimate(figures.classKernel, 1, 100) : '',
  estimate(figures.frechet, 2),
  estimate(figures.precision, 2),
  estimate(figures.recall, 2),
  byClass ? estimate(figures.variety, 2) : '',
  estimate(figures.inception, 2),
  estimate(figures.agreement, 2),
];

const MEASURES = [
  'kernel distance × 100',
  'by class × 100',
  'Fréchet',
  'precision',
  'recall',
  'variety',
  'IS',
  'agreement',
];

function table(head: readonly string[], body: readonly (readonly string[])[]): string {
  const line = (row: readonly string[]) => `| ${row.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...body.map(line)].join('\n');
}

const outside = (row: Row): string => `${(100 * row.outside).toFixed(1)} %`;

function realRows(real: ReadonlyMap<number, Figures>, counts: readonly number[], lead: number): string[][] {
  return [...new Set(counts)]
    .sort((a, b) => a - b)
    .flatMap((count) => {
      const figures = real.get(count);
      const blank = Array<string>(lead - 1).fill('');
      return figures ? [['real pictures', ...blank, String(count), ...cells(figures), '']] : [];
    });
}

/** The scale's sweep: rows with the plain form, a table for each sampler. */
function scaleTables(inputs: ReportInputs): string[] {
  const { rows, real, respacing } = inputs;
  return (['ddim', 'ddpm'] as const).flatMap((sampler) => {
    const own = rows.filter(({ setting: s }) => s.sampler === sampler && (s.form === 'none' || s.form === 'sigma'));
    if (own.length === 0) return [];
    const body = own.map((row) => [
      row.setting.conditional ? 'class' : 'null class',
      String(row.setting.scale),
      String(row.pictures),
      ...cells(row.figures, knowsClass(row.setting)),
      outside(row),
    ]);
    const head = ['U-Net sees', 'scale', 'pictures', ...MEASURES, 'clamped'];
    const counts = own.map((row) => row.pictures);
    return [
      `### The scale, ${SAMPLER_NAMES[sampler]}, respacing "${respacing[sampler]}"`,
      table(head, [...body, ...realRows(real, counts, 2)]),
    ];
  });
}

/** The form's sweep: DDPM, null class. */
const formRows = (rows: readonly Row[]): Row[] =>
  rows.filter(({ setting }) => setting.sampler === 'ddpm' && !setting.conditional);

function formTables({ rows, real }: ReportInputs): string[] {
  const own = formRows(rows);
  if (!own.some(({ setting }) => setting.form !== 'none' && setting.form !== 'sigma')) return [];
  const body = own.map((row) => [
    FORM_NAMES[row.setting.form],
    String(row.setting.scale),
    String(row.pictures),
    ...cells(row.figures, knowsClass(row.setting)),
    outside(row),
  ]);
  const counts = own.map((row) => row.pictures);
  const parts = [
    '### The form, DDPM, null class',
    table(['gradient', 'scale', 'pictures', ...MEASURES, 'clamped'], [...body, ...realRows(real, counts, 2)]),
  ];
  const equal = EQUAL_AGREEMENTS.flatMap((target) =>
    FORMS.filter((form) => form !== 'none').flatMap((form): string[][] => {
      const sorted = own.filter(({ setting }) => setting.form === form);
      if (sorted.length === 0) return [];
      const at = (read: (row: Row) => number) => atAgreement(sorted, target, read);
      const kernel = at(({ figures }) => figures.kernel.value);
      if (!kernel) return [[target.toFixed(2), FORM_NAMES[form], 'not reached', '', '', '', '', '', '']];
      const first = kernel.scale === sorted[0]!.setting.scale;
      const show = (read: (row: Row) => number, digits: number) => at(read)!.value.toFixed(digits);
      return [
        [
          target.toFixed(2),
          FORM_NAMES[form],
          `${first ? '≤ ' : ''}${Number(kernel.scale.toPrecision(2))}`,
          (100 * kernel.value).toFixed(1),
          show(({ figures }) => 100 * figures.classKernel.value, 1),
          show(({ figures }) => figures.frechet.value, 2),
          show(({ figures }) => figures.precision.value, 2),
          show(({ figures }) => figures.recall.value, 2),
          show(({ figures }) => figures.variety.value, 2),
        ],
      ];
    }),
  );
  return [
    ...parts,
    '### The form at equal agreement',
    'On straight lines between the scales measured; at the weakest scale, where that reaches more already (≤).',
    table(['agreement', 'gradient', 'scale', ...MEASURES.slice(0, 6)], equal),
  ];
}

const EQUAL_AGREEMENTS = [0.8, 0.95];

/** The part of the document that is measured. */
export function measuredPart(inputs: ReportInputs, plot: string): string {
  const { adapters, referenceCount, seconds, date } = inputs;
  const about = [
    `Measured on ${date} with ${adapters.join(', ')}, ${(seconds / 60).toFixed(0)} minutes of sampling.`,
    `Each row is compared with the same ${referenceCount} real test pictures, in the features of a classifier that has never`,
    'seen noise. ± is the standard error over seeds (the jackknife’s), where there are two seeds or more. For real pictures it',
    'is the standard deviation over disjoint sets of as many: what chance alone does to a figure at this count. Kernel',
    'distance is unbiased: over all pictures, and by class, each picture against real ones of the class it was asked to be.',
    'Fréchet distance and recall depend on the number of pictures, so compare them at equal counts. Variety is the mean',
    'squared distance of two pictures of a class, 1 for real ones.',
    '"Clamped" is the share of values beyond [-1.1, 1.1] in the last sample.',
  ].join('\n');
  return [`![Figures by scale and form](${plot})`, about, ...scaleTables(inputs), ...formTables(inputs)].join('\n\n');
}

/** Replaces what stands between the marks; puts both at the end of a document without them. */
export function insertMeasured(document: string, part: string): string {
  const from = document.indexOf(BEGIN);
  const to = document.indexOf(END);
  const block = `${BEGIN}\n\n${part}\n\n${END}`;
  if (from < 0 || to < from) return `${document.trimEnd()}\n\n${block}\n`.trimStart();
  return document.slice(0, from) + block + document.slice(to + END.length);
}
