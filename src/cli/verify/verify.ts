/**
 * @file `verify DIR`: runs the recorded cases of a golden folder and prints error against tolerance.
 */

import { writeFileSync } from 'node:fs';
import { NUMBER_FORMATS } from '../../checkpoints/convert.ts';
import type { Runtime } from '../../runtime/device.ts';
import { OptionError } from '../../runtime/errors.ts';
import { parseVariants } from '../../runtime/variants.ts';
import { openAdapter } from '../adapter.ts';
import {
  ACCURACY_OPTION,
  ADAPTER_OPTION,
  accuracyOption,
  choiceOption,
  numberOption,
  type OptionTable,
  readArguments,
} from '../arguments.ts';
import { badCheckpointCase, checkpointCase } from './checkpoints.ts';
import { compare, type Status, type TensorReport, unsupported, widened } from './compare.ts';
import { bpdCase, refusalCase, respacingCase, scheduleCase, trainingLossCase, trajectoryCase } from './diffusion.ts';
import type { Results } from './evaluate.ts';
import { type CaseTensors, type GoldenCase, GoldenFolder } from './manifest.ts';
import { models, Unsupported } from './models.ts';
import { operations } from './operations.ts';

const OPTIONS = {
  only: {
    type: 'string',
    value: 'ID',
    help: 'cases whose id or kind contains this text; several are separated by commas',
  },
  format: {
    type: 'string',
    value: 'FORMAT',
    help: 'runs models with weights in f16 or int8, as convert makes them; tolerances stay those of float32',
  },
  variants: {
    type: 'string',
    value: 'LIST',
    help: 'forces variants of kernels wherever they fit, for example "conv2d=winograd 2x2,linear=lanes"; tolerances stay',
  },
  accuracy: ACCURACY_OPTION,
  as: {
    type: 'string',
    value: 'cpu|gpu',
    help: 'takes the variants of such an adapter, whatever this one is, and without measured tables',
  },
  tolerance: {
    type: 'string',
    value: 'X',
    help: 'a relative error to be allowed where less is recorded, for variants that are less exact than float32',
  },
  json: { type: 'string', value: 'FILE', help: 'writes everything as JSON' },
  adapter: ADAPTER_OPTION,
} as const satisfies OptionTable;

export const verifyHelp = {
  usage:
    'verify DIR [--only ID] [--format FORMAT] [--variants LIST] [--accuracy CLASS] [--as cpu|gpu] [--tolerance X] [--json FILE] [--adapter NAME]',
  summary: 'runs the recorded cases of a golden folder and prints error against tolerance',
  options: OPTIONS,
};

interface CaseReport {
  readonly id: string;
  readonly kind: string;
  readonly status: Status;
  readonly tensors: Readonly<Record<string, TensorReport>>;
  readonly message?: string;
}

type Runner = (runtime: Runtime, golden: GoldenCase, tensors: CaseTensors, folder: GoldenFolder) => Promise<Results>;

const RUNNERS: Readonly<Record<string, Runner>> = {
  ...operations,
  ...models,
  schedule: scheduleCase,
  respacing: respacingCase,
  trajectory: trajectoryCase,
  bpd: bpdCase,
  training_loss: trainingLossCase,
};

/** Kinds that are right or wrong as a whole: a complaint, or null. */
const VERDICTS: Readonly<Record<string, (golden: GoldenCase, folder: GoldenFolder) => string | null>> = {
  checkpoint: checkpointCase,
  checkpoint_bad: badCheckpointCase,
};

/** @returns the exit status: 1 if a case failed */
export async function verify(argv: readonly string[]): Promise<number> {
  const { options, positionals } = readArguments(verifyHelp, argv);
  const [directory, ...rest] = positionals;
  if (directory === undefined || rest.length > 0) {
    throw new OptionError(`verify takes one folder, found ${positionals.length}: npm run verify -- DIR`);
  }
  const folder = new GoldenFolder(directory);
  const wanted = options.only?.split(',').filter(Boolean);
  const cases = folder.cases.filter(
    ({ id, kind }) => !wanted || wanted.some((part) => id.includes(part) || kind.includes(part)),
  );
  if (cases.length === 0) throw new OptionError(`no case of ${directory} has an id or kind with "${options.only}"`);

  if (options.format !== undefined) {
    await folder.convertModels(choiceOption('format', options.format, NUMBER_FORMATS));
  }
  const variants = options.variants === undefined ? {} : { variants: parseVariants(options.variants) };
  const tolerance = options.tolerance === undefined ? 0 : numberOption('tolerance', options.tolerance, { min: 0 });
  const accuracy = accuracyOption(options.accuracy);
  const as = options.as === undefined ? {} : { as: choiceOption('as', options.as, ['cpu', 'gpu']) };
  const { found, runtime } = await openAdapter(options.adapter, { tuning: 'off', accuracy, ...variants, ...as });
  const started = performance.now();
  const reports: CaseReport[] = [];
  for (const golden of cases) {
    const report = await runCase(runtime, folder, golden, tolerance);
    reports.push(report);
    printCase(report);
  }
  printTotals(reports, (performance.now() - started) / 1000);
  if (options.json !== undefined) {
    const json = { adapter: found.adapter.name, cases: reports };
    try {
      writeFileSync(options.json, `${JSON.stringify(json, null, 1)}\n`);
    } catch (error) {
      throw new OptionError(`cannot write ${options.json}: ${error instanceof Error ? error.message : error}`);
    }
  }
  runtime.dispose();
  found.device.destroy();
  return reports.some(({ status }) => status === 'fail') ? 1 : 0;
}

/** @param tolerance relative error that is allowed where less is recorded */
export async function runCase(
  runtime: Runtime,
  folder: GoldenFolder,
  golden: GoldenCase,
  tolerance = 0,
): Promise<CaseReport> {
  const { id, kind } = golden;
  const runner = RUNNERS[kind];
  const expected = expectedTensors(golden);
  const all = (status: Status, message: string): CaseReport => ({
    id,
    kind,
    status,
    tensors: Object.fromEntries(expected.map(([name, spec]) => [name, { ...unsupported(spec), status }])),
    message,
  });
  const judge = VERDICTS[kind];
  if (judge) {
    try {
      const complaint = judge(golden, folder);
      return complaint ? all('fail', complaint) : { id, kind, status: 'ok', tensors: {} };
    } catch (error) {
      return all('fail', error instanceof Error ? error.message : String(error));
    }
  }
  if (!runner) return all('unsupported', `no runner for kind ${kind}`);
  try {
    if (golden.raises !== undefined) {
      const complaint = await refusalCase(golden);
      return complaint ? all('fail', complaint) : { id, kind, status: 'ok', tensors: {} };
    }
    const tensors = folder.tensors(golden);
    const results = await runner(runtime, golden, tensors, folder);
    const reports: Record<string, TensorReport> = {};
    for (const [name, spec] of expected) {
      const result = results[name];
      if (!spec || !result) {
        reports[name] = unsupported(spec);
        continue;
      }
      const recorded = name.startsWith(SINGLE) ? name.slice(SINGLE.length) : name;
      const values = tensors.values(recorded);
      const perStep = name.startsWith(SINGLE) ? true : spec.per_step;
      reports[name] = compare(result, values.data, { ...widened(spec, tolerance), shape: values.shape }, perStep);
    }
    return { id, kind, status: worst(Object.values(reports)), tensors: reports };
  } catch (error) {
    if (error instanceof Unsupported) return all('unsupported', error.message);
    return all('fail', error instanceof Error ? error.message : String(error));
  }
}

const SINGLE = 'single_step.';

/** Every tensor a case asks for. Members of a group appear as the group; its tolerance is the group's own affair. */
function expectedTensors({ outputs = {}, groups = {}, single_step = {} }: GoldenCase) {
  const prefixes = Object.keys(groups);
  const expected: [
    string,
    GoldenCase['outputs'] extends infer T | undefined
      ? (T extends Readonly<Record<string, infer S>> ? S : never) | null
      : never,
  ][] = [];
  for (const [name, spec] of Object.entries(outputs)) {
    if (!prefixes.some((prefix) => name.startsWith(prefix))) expected.push([name, spec]);
  }
  for (const prefix of prefixes) expected.push([`${prefix}*`, null]);
  for (const [name, spec] of Object.entries(single_step)) expected.push([SINGLE + name, spec]);
  return expected;
}

function worst(reports: readonly TensorReport[]): Status {
  if (reports.some(({ status }) => status === 'fail')) return 'fail';
  return reports.some(({ status }) => status === 'unsupported') ? 'unsupported' : 'ok';
}

const label = (status: Status): string => (status === 'fail' ? 'FAIL' : status);

function printCase({ id, kind, status, tensors, message }: CaseReport): void {
  const number = (value: number | null) => (value === null ? '-' : value.toExponential(1));
  const parts = Object.entries(tensors).map(([name, t]) => {
    if (t.status === 'unsupported') return `${name} unsupported`;
    const relative = `${number(t.relL2)}/${number(t.tolRelL2)}`;
    const absolute = t.tolMaxAbs === null ? '' : ` ${number(t.maxAbs)}/${number(t.tolMaxAbs)}`;
    return `${name} ${relative}${absolute}${t.status === 'fail' ? ' FAIL' : ''}`;
  });
  const note = message ? ` (${message})` : '';
  process.stdout.write(`${label(status).padEnd(11)} ${id} ${kind}: ${parts.join(', ')}${note}\n`);
}

function printTotals(reports: readonly CaseReport[], seconds: number): void {
  const kinds = new Map<string, Record<Status, number>>();
  for (const { kind, status } of reports) {
    const counts = kinds.get(kind) ?? { ok: 0, fail: 0, unsupported: 0 };
    counts[status]++;
    kinds.set(kind, counts);
  }
  const line = (name: string, { ok, fail, unsupported: missing }: Record<Status, number>) =>
    `${name.padEnd(24)} ${String(ok).padStart(4)} ok ${String(fail).padStart(4)} FAIL ${String(missing).padStart(4)} unsupported\n`;
  const total = { ok: 0, fail: 0, unsupported: 0 };
  process.stdout.write('\n');
  for (const [kind, counts] of kinds) {
    process.stdout.write(line(kind, counts));
    for (const status of Object.keys(total) as Status[]) total[status] += counts[status];
  }
  process.stdout.write(line(`all, ${seconds.toFixed(0)} s`, total));
}
