/**
 * @file Figures as Markdown tables, put between two marks of a document that people write around them.
 */
import type { Estimate } from './distances.ts';
import {
  atAgreement,
  difference,
  differenceAtAgreement,
  type Figures,
  type Measure,
  type Row,
  scaleAtAgreement,
} from './figures.ts';
import { FORM_NAMES, FORMS, type Form, knowsClass, type SamplerName } from './settings.ts';

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
  const main = (value * factor).toFixed(digits).replace(/^-(?=[0.]*$)/, '');
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

/** A difference says which way. */
const signed = (text: string): string => (text.startsWith('-') || Number.parseFloat(text) === 0 ? text : `+${text}`);

/** What is told by class only has no difference to pictures that were made for none. */
const STEPPED: readonly { readonly name: Measure; readonly digits: number; readonly factor: number }[] = [
  { name: 'classKernel', digits: 1, factor: 100 },
  { name: 'frechet', digits: 2, factor: 1 },
  { name: 'precision', digits: 2, factor: 1 },
  { name: 'variety', digits: 2, factor: 1 },
  { name: 'inception', digits: 2, factor: 1 },
  { name: 'agreement', digits: 2, factor: 1 },
];

/** What each scale changes from the one before it. */
function stepTable(own: readonly Row[]): string {
  const body = own.slice(1).flatMap((row, i): string[][] => {
    const before = own[i]!;
    if (before.setting.conditional !== row.setting.conditional) return [];
    const cell = ({ name, digits, factor }: (typeof STEPPED)[number]) =>
      (name === 'classKernel' || name === 'variety') && !knowsClass(before.setting)
        ? ''
        : signed(estimate(difference(before, row, name), digits, factor));
    const scales = `${before.setting.scale} to ${row.setting.scale}`;
    return [[row.setting.conditional ? 'class' : 'null class', scales, ...STEPPED.map(cell)]];
  });
  return table(['U-Net sees', 'scale', 'by class × 100', 'Fréchet', 'precision', 'variety', 'IS', 'agreement'], body);
}

/** The scale's sweep: rows with the plain form, and their differences, a table of each for each sampler. */
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
      `From each scale to the next, ${SAMPLER_NAMES[sampler]}, same noise:`,
      stepTable(own),
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
  const ofForm = (form: Form) => own.filter(({ setting }) => setting.form === form);
  const plain = ofForm('sigma');
  const equal = EQUAL_AGREEMENTS.flatMap((target) =>
    FORMS.filter((form) => form !== 'none').flatMap((form): string[][] => {
      const sorted = ofForm(form);
      if (sorted.length === 0) return [];
      const lead = [target.toFixed(2), FORM_NAMES[form]];
      const scale = scaleAtAgreement(sorted, target);
      if (Number.isNaN(scale)) return [[...lead, 'not reached', ...Array<string>(7).fill('')]];
      const at = (name: Measure, digits: number, factor = 1) =>
        estimate(atAgreement(sorted, target, name), digits, factor);
      const beyond = (name: Measure, digits: number, factor = 1) => {
        const by = differenceAtAgreement(plain, sorted, target, name);
        return form === 'sigma' || Number.isNaN(by.value) ? '' : signed(estimate(by, digits, factor));
      };
      return [
        [
          ...lead,
          `${scale === sorted[0]!.setting.scale ? '≤ ' : ''}${Number(scale.toPrecision(2))}`,
          at('classKernel', 1, 100),
          beyond('classKernel', 1, 100),
          at('variety', 2),
          beyond('variety', 2),
          at('frechet', 2),
          at('precision', 2),
          at('recall', 2),
        ],
      ];
    }),
  );
  const than = `less “${FORM_NAMES.sigma}”`;
  const head = [
    'agreement',
    'gradient',
    'scale',
    'by class × 100',
    than,
    'variety',
    than,
    'Fréchet',
    'precision',
    'recall',
  ];
  return [
    ...parts,
    '### The form at equal agreement',
    'On straight lines between the scales measured; at the weakest scale, where that reaches more already (≤).',
    table(head, equal),
  ];
}

const EQUAL_AGREEMENTS = [0.8, 0.95];

/** How many seeds the settings have, in words. */
function seedsOf(rows: readonly Row[]): string {
  const counts = [...new Set(rows.map(({ seeds }) => seeds.length))].sort((a, b) => a - b);
  return counts.length === 1 ? `${counts[0]} a setting` : `${counts[0]} to ${counts.at(-1)} a setting`;
}

/** The part of the document that is measured. */
export function measuredPart(inputs: ReportInputs, plot: string): string {
  const { rows, adapters, referenceCount, seconds, date } = inputs;
  const about = [
    `Measured on ${date} with ${adapters.join(', ')}, ${(seconds / 60).toFixed(0)} minutes of sampling.`,
    `Each row is compared with the same ${referenceCount} real test pictures, in the features of a classifier that has never`,
    `seen noise. Seeds: ${seedsOf(rows)}. ± is the standard error (the jackknife’s, leaving out each of 12 groups of pictures at`,
    'most, classes balanced); recall has none, since it depends too much on the number of pictures. For real pictures ± is',
    'the standard deviation over disjoint sets of as many: what chance alone does to a figure at this count. All settings',
    'start from the same noise, so a difference is known better than its two sides. Kernel distance is unbiased: over all',
    'pictures, and by class, each picture against real ones of the class it was asked to be. Fréchet distance and recall',
    'depend on the number of pictures, so compare them at equal counts. Variety is the mean squared distance of two pictures',
    'of a class, 1 for real ones.',
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
