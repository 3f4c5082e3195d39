/** @file Records, figures and the document: what is measured survives a file, and stands where it should. */
import { expect, test } from 'vitest';
import { atAgreement, type Figures, figureRows, type Row, reference } from '../../src/evaluate/figures.ts';
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

/** A record with two seeds of each setting; pictures are noise in 4 features, shifted by the scale. */
function filled(settings: readonly Setting[]): EvaluationRecord {
  const record = new EvaluationRecord(CONDITIONS);
  record.adapters.add('an adapter');
  settings.forEach((setting, i) => {
    for (const seed of [0, 1]) {
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
const sweep = [...scaleSweep(['ddim', 'ddpm']), ...formSweep()];

test('the sweeps name what the paper and its forms ask for, each once it is sampled', () => {
  const keys = sweep.map(settingKey);
  expect(scaleSweep(['ddim', 'ddpm']).length).toBe(2 * 2 * 7);
  expect(keys).toContain('ddim null none 0');
  expect(keys).toContain('ddpm class sigma 16');
  expect(keys).toContain('ddpm null sample 2');
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
  expect(rows[0]).toMatchObject({ pictures: 40, seeds: 2, outside: 0.5 });
  expect(scales.map(({ figures }) => figures.agreement.value)).toEqual([0.5, 0.5, 0.8, 0.8, 0.8, 1, 1]);
  // Features move away from the real ones with the scale.
  const kernels = scales.map(({ figures }) => figures.kernel.value);
  expect(kernels.at(-1)!).toBeGreaterThan(10 * Math.abs(kernels[0]!));
  expect(scales[0]!.figures.kernel.error).toBeGreaterThan(0);
});

test('a figure at an agreement lies on the line between the scales around it', () => {
  const row = (scale: number, agreement: number): Row => ({
    setting: { sampler: 'ddpm', conditional: false, form: 'sigma', scale },
    pictures: 10,
    seeds: 1,
    outside: 0,
    figures: { agreement: { value: agreement, error: null } } as Figures,
  });
  const rows = [row(0, 0.1), row(1, 0.5), row(4, 0.9)];
  const read = ({ setting }: Row) => setting.scale ** 2;
  expect(atAgreement(rows, 0.7, read)).toEqual({ scale: expect.closeTo(2.5, 10), value: expect.closeTo(8.5, 10) });
  expect(atAgreement(rows, 0.95, read)).toBeNull();
  expect(atAgreement(rows, 0.05, read)).toEqual({ scale: 0, value: 0 });
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
  expect(part).toContain('| without Σ | 8 | 40 |');
  const once = insertMeasured('# Title\n\nBefore.\n', part);
  const twice = insertMeasured(`${once}\nAfter.\n`, 'other figures');
  expect(twice).toBe(`# Title\n\nBefore.\n\n${BEGIN}\n\nother figures\n\n${END}\n\nAfter.\n`);
  expect(once).toContain('### The form at equal agreement');
});

test('the plot is well-formed, has every panel, and no number that is none', () => {
  const svg = plot(figureRows(filled(sweep), real), null);
  expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  for (const title of ['DDIM: kernel', 'DDPM: precision and variety', 'DDIM: agreement', 'DDPM, null class: variety']) {
    expect(svg).toContain(title);
  }
  const opened = [...svg.matchAll(/<(\w+)(?:\s[^>]*[^/])?>/g)].length;
  expect(opened).toBe([...svg.matchAll(/<\/\w+>/g)].length);
  expect([...svg.matchAll(/<circle/g)].length).toBeGreaterThan(100);
});
