/** @file Records, figures and the document: what is measured survives a file, and stands where it should. */
import { expect, test } from 'vitest';
import type { Jackknifed } from '../../src/evaluate/distances.ts';
import {
  atAgreement,
  difference,
  differenceAtAgreement,
  figureRows,
  type JackknifedFigures,
  type Row,
  reference,
  scaleAtAgreement,
} from '../../src/evaluate/figures.ts';
import { plot } from '../../src/evaluate/plot.ts';
import { type Conditions, EvaluationRecord } from '../../src/evaluate/record.ts';
import { BEGIN, END, insertMeasured, measuredPart } from '../../src/evaluate/report.ts';
import { formSweep, readSettingKey, type Setting, scaleSweep, settingKey } from '../../src/evaluate/settings.ts';
import { vectors } from '../../src/evaluate/vectors.ts';
import { values } from '../device.ts';

const CONDITIONS: Conditions = {
  model: 'a',
  classifier: 'b',
  judge: 'c',
  respacing: { ddim: 'ddim25', ddpm: '25' },
  pictures: 20,
};
const LABELS = Array.from({ length: 20 }, (_, i) => i % 10);
const CLASSES = LABELS.slice(0, 10);

/** A record with two seeds of each setting, or those given; pictures are noise in 4 features, shifted by the scale. */
function filled(settings: readonly Setting[], seeds: readonly number[] = [0, 1]): EvaluationRecord {
  const record = new EvaluationRecord(CONDITIONS);
  record.adapters.add('an adapter');
  settings.forEach((setting, i) => {
    for (const seed of seeds) {
      const features = vectors(
        values(80, 100 * i + seed).map((v) => v + setting.scale / 10),
        4,
      );
      const wrong = setting.scale < 1 ? 5 : setting.scale < 8 ? 2 : 0;
      const logits = LABELS.flatMap((y) =>
        CLASSES.map((k) => (k === (y < wrong ? (y + 1) % 10 : y) ? Math.log(0.91) : Math.log(0.01))),
      );
      const judgement = { features, logProbs: vectors(logits, 10) };
      record.add(setting, seed, LABELS, Float32Array.of(0, 0.5, 1.2, Number.NaN), judgement, 1.5);
    }
  });
  return record;
}

const real = reference({ features: vectors(values(400, 9), 4), labels: Array.from({ length: 100 }, (_, i) => i % 10) });
const sweep = [
  ...new Map(
    [...scaleSweep(['ddim', 'ddpm']), ...formSweep()].map((setting) => [settingKey(setting), setting]),
  ).values(),
];

test('the sweeps name what the paper and its forms ask for, each once it is sampled', () => {
  const keys = sweep.map(settingKey);
  expect(scaleSweep(['ddim', 'ddpm']).length).toBe(2 * 2 * 7);
  expect(keys).toContain('ddim null none 0');
  expect(keys).toContain('ddpm class sigma 16');
  expect(keys).toContain('ddpm null sample 2');
  expect(formSweep().map(settingKey).slice(-2)).toEqual(['ddpm null adam 0.03', 'ddpm null sample 0.125']);
  expect(formSweep().length).toBe(1 + 3 * 5 + 1);
  for (const key of keys) expect(settingKey(readSettingKey(key))).toBe(key);
});

test('a record is the same after its file, and refuses one of other conditions', () => {
  const record = filled(scaleSweep(['ddim'], [0, 4]));
  const text = record.toJson();
  const again = EvaluationRecord.fromJson(text, CONDITIONS, 'x.json');
  expect(again.toJson()).toBe(text);
  expect(again.find({ sampler: 'ddim', conditional: true, form: 'sigma', scale: 4 }, 1)?.labels).toEqual(LABELS);
  expect(again.find({ sampler: 'ddim', conditional: true, form: 'sigma', scale: 4 }, 2)).toBeUndefined();
  expect(again.chunks[0]!.outside).toBe(0.5);
  expect(() => EvaluationRecord.fromJson(text, { ...CONDITIONS, judge: 'd' }, 'x.json')).toThrow(
    'x.json was made with judge "c", now it is "d"; name another file',
  );
  expect(() => EvaluationRecord.fromJson('[]', CONDITIONS, 'x.json')).toThrow('holds no results of evaluate');
  expect(() => EvaluationRecord.fromJson('{', CONDITIONS, 'x.json')).toThrow('is not JSON');
});

test('rows pool the seeds, in order of sampler, class, form and scale', () => {
  const rows = figureRows(filled([...sweep].reverse()), real);
  const scales = rows.filter(({ setting }) => setting.sampler === 'ddim' && !setting.conditional);
  expect(scales.map(({ setting }) => setting.scale)).toEqual([0, 0.5, 1, 2, 4, 8, 16]);
  expect(rows[0]).toMatchObject({ pictures: 40, seeds: [0, 1], outside: 0.5 });
  expect(scales.map(({ figures }) => figures.agreement.value)).toEqual([0.5, 0.5, 0.8, 0.8, 0.8, 1, 1]);
  // Features move away from the real ones with the scale.
  const kernels = scales.map(({ figures }) => figures.kernel.value);
  expect(kernels.at(-1)!).toBeGreaterThan(10 * Math.abs(kernels[0]!));
  expect(scales[0]!.figures.kernel.error).toBeGreaterThan(0);
  expect(scales[0]!.figures.recall).toEqual({ value: expect.any(Number), error: null, without: [] });
});

/** A row whose agreement and variety are given, with what they are without each of the groups. */
function row(scale: number, agreement: readonly number[], variety: readonly number[], seeds = [0]): Row {
  const estimate = ([value, ...without]: readonly number[]): Jackknifed => ({ value: value!, error: null, without });
  return {
    setting: { sampler: 'ddpm', conditional: false, form: 'sigma', scale },
    pictures: 10,
    seeds,
    outside: 0,
    figures: { agreement: estimate(agreement), variety: estimate(variety) } as JackknifedFigures,
  };
}

test('a figure at an agreement lies on the line between the scales around it', () => {
  const rows = [row(0, [0.1], [0]), row(1, [0.5], [1]), row(4, [0.9], [16])];
  expect(scaleAtAgreement(rows, 0.7)).toBeCloseTo(2.5, 10);
  expect(atAgreement(rows, 0.7, 'variety')).toEqual({ value: expect.closeTo(8.5, 10), error: null, without: [] });
  expect(scaleAtAgreement(rows, 0.95)).toBeNaN();
  expect(atAgreement(rows, 0.95, 'variety').value).toBeNaN();
  expect([scaleAtAgreement(rows, 0.05), atAgreement(rows, 0.05, 'variety').value]).toEqual([0, 0]);
  expect(atAgreement(rows, 0.9, 'variety').value).toBe(16);
});

test('its error follows from leaving out each group on all of the line', () => {
  // Agreement 0.7 lies at 2.5 of 4 with both groups, at 2 and 4 without one: variety 5, 4 and 8.
  const rows = [row(0, [0.2, 0.2, 0.2], [0, 0, 0]), row(4, [1, 1.2, 0.7], [8, 8, 8])];
  const found = atAgreement(rows, 0.7, 'variety');
  expect(found.value).toBeCloseTo(5, 10);
  expect(found.without).toEqual([expect.closeTo(4, 10), expect.closeTo(8, 10)]);
  expect(found.error).toBeCloseTo(Math.sqrt((1 / 2) * (4 + 4)), 10);
  // Where a part is not reached, no error is known.
  expect(atAgreement([rows[0]!, row(4, [1, 1.2, 0.6], [8, 8, 8])], 0.7, 'variety').error).toBeNull();
  expect(atAgreement([rows[0]!, row(4, [1, 1.2, 0.7], [8, 8, 8], [1])], 0.7, 'variety').error).toBeNull();

  const other = rows.map(({ setting, figures }, i) =>
    row(
      setting.scale,
      [i ? 1 : 0.2, i ? 1.2 : 0.2, i ? 0.7 : 0.2],
      [figures.variety.value + 1, ...figures.variety.without.map((v) => v + 1)],
    ),
  );
  const by = differenceAtAgreement(rows, other, 0.7, 'variety');
  expect([by.value, by.error]).toEqual([expect.closeTo(1, 10), expect.closeTo(0, 10)]);
});

test('a difference of two settings has the error of what they do not share', () => {
  const by = difference(row(0, [0.5, 0.4, 0.6], [1, 1, 1]), row(1, [0.7, 0.6, 0.8], [2, 1, 3]), 'agreement');
  expect([by.value, by.error]).toEqual([expect.closeTo(0.2, 10), expect.closeTo(0, 10)]);
  const apart = difference(row(0, [0.5, 0.4, 0.6], [1]), row(1, [0.7, 0.8, 0.6], [2]), 'agreement');
  expect(apart.error).toBeCloseTo(Math.sqrt((1 / 2) * (0.2 ** 2 + 0.2 ** 2)), 10);
  const otherSeeds = difference(row(0, [0.5, 0.4, 0.6], [1]), row(1, [0.7, 0.6, 0.8], [2], [1]), 'agreement');
  expect([otherSeeds.value, otherSeeds.error]).toEqual([expect.closeTo(0.2, 10), null]);
});

test('the error is that of balanced groups of pictures, and needs three of them', () => {
  const setting: Setting = { sampler: 'ddim', conditional: true, form: 'none', scale: 0 };
  const agreementOf = (seeds: readonly number[]) => figureRows(filled([setting], seeds), real)[0]!.figures.agreement;
  expect(agreementOf([0])).toEqual({ value: 0.5, error: null, without: [] });
  // Two seeds of 20 are four groups of ten, of which each has five right.
  expect(agreementOf([0, 1])).toEqual({ value: 0.5, error: 0, without: [0.5, 0.5, 0.5, 0.5] });
  const many = Array.from({ length: 7 }, (_, seed) => seed);
  expect(agreementOf(many).without.length).toBe(12);
});

test('the document keeps what people wrote, and its measured part is replaced', () => {
  const record = filled(sweep);
  const rows = figureRows(record, real);
  const inputs = {
    rows,
    real: new Map(),
    adapters: ['an adapter'],
    respacing: CONDITIONS.respacing,
    referenceCount: 400,
    seconds: 90,
    date: '2026-01-01',
  };
  const part = measuredPart(inputs, 'guidance.svg');
  expect(part).toContain('| null class | 16 | 40 |');
  expect(part).toContain('Seeds: 2 a setting.');
  // From 0 to 0.5 agreement stays, from 0.5 to 1 it rises in each group alike; nothing is asked of the null class at 0.
  expect(part).toMatch(/\| null class \| 0 to 0\.5 \| {2}\| .* \| {2}\| .* \| 0\.00 ± 0\.00 \|/);
  expect(part).toMatch(/\| class \| 0\.5 to 1 \| \+\d.* ± .* \| \+0\.30 ± 0\.00 \|/);
  expect(part).toMatch(/\| 0\.80 \| Σ, Adam \| not reached \|/);
  expect(part).toContain('| without Σ | 8 | 40 |');
  const once = insertMeasured('# Title\n\nBefore.\n', part);
  const twice = insertMeasured(`${once}\nAfter.\n`, 'other figures');
  expect(twice).toBe(`# Title\n\nBefore.\n\n${BEGIN}\n\nother figures\n\n${END}\n\nAfter.\n`);
  expect(once).toContain('### The form at equal agreement');
});

test('the plot is well-formed, has every panel, and no number that is none', () => {
  const rows = figureRows(filled(sweep), real);
  const svg = plot(rows, new Map());
  expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  for (const title of [
    'DDIM: Fréchet',
    'DDPM: precision and variety',
    'DDPM: agreement',
    'DDPM, null class: variety',
  ]) {
    expect(svg).toContain(title);
  }
  const opened = [...svg.matchAll(/<(\w+)(?:\s[^>]*[^/])?>/g)].length;
  expect(opened).toBe([...svg.matchAll(/<\/\w+>/g)].length);
  expect([...svg.matchAll(/<circle/g)].length).toBeGreaterThan(100);

  // Real pictures' level is that of as many; where counts differ, Fréchet distances have none.
  const dashes = (some: readonly Row[], count: number) =>
    [...plot(some, new Map([[count, rows[0]!.figures]])).matchAll(/>real</g)].length;
  expect([dashes(rows, 40), dashes(rows, 60)]).toEqual([8, 0]);
  const ddim = rows.map((one, i) => (i === 0 ? { ...one, pictures: 60 } : one));
  expect(dashes(ddim, 60)).toBe(3);
});
