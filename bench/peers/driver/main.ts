/** @file The program: reads its options, measures case after case, prints tables, keeps JSON. */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CASES, type Case, parseCase } from '../cases.ts';
import { ENTRIES, type Entry } from '../contestants/index.ts';
import { browserHost } from './browser_host.ts';
import { bundleOf } from './bundles.ts';
import type { Host } from './host.ts';
import { nodeHost } from './node_host.ts';
import { root } from './places.ts';
import { type CaseReport, type Entrant, measureCase, type RoundOptions } from './rounds.ts';
import { peakOf, tableOf } from './table.ts';

const OPTIONS = {
  node: { type: 'boolean', default: false },
  adapter: { type: 'string' },
  chromium: { type: 'string', default: '' },
  contestants: { type: 'string' },
  add: { type: 'string', multiple: true, default: [] as string[] },
  build: { type: 'string', multiple: true, default: [] as string[] },
  case: { type: 'string', multiple: true, default: [] as string[] },
  only: { type: 'string' },
  rounds: { type: 'string', default: '5' },
  samples: { type: 'string', default: '7' },
  budget: { type: 'string', default: '1000' },
  json: { type: 'string' },
  print: { type: 'string' },
} as const;

interface Report {
  readonly date: string;
  adapter: string;
  readonly host: string;
  readonly cpu: string;
  readonly settings: RoundOptions;
  readonly versions: Record<string, string>;
  readonly cases: CaseReport[];
}

export async function main(argv: string[]): Promise<number> {
  const { values: options } = parseArgs({ args: argv, options: OPTIONS });
  if (options.print !== undefined) {
    const report = JSON.parse(readFileSync(options.print, 'utf8')) as Report;
    for (const found of report.cases) process.stdout.write(`${tableOf(found, peakOf(report.cases))}\n\n`);
    process.stdout.write(`adapter: ${report.adapter}; ${report.host}; ${report.date}\n`);
    return 0;
  }
  const entries: Record<string, Entry> = { ...ENTRIES };
  for (const [name, file] of options.add.map(pair)) entries[name] = { module: resolve(file) };
  for (const [name, file] of options.build.map(pair)) {
    entries[name] = { module: 'pilotwave.ts', options: { build: resolve(file) } };
  }
  const names =
    options.contestants?.split(',') ?? Object.keys(entries).filter((name) => entries[name]!.onlyIfNamed !== true);
  const unknown = names.find((name) => !entries[name]);
  if (unknown !== undefined)
    throw new Error(`no contestant "${unknown}"; there are ${Object.keys(entries).join(', ')}`);

  const host = options.node
    ? nodeHost(options.adapter ?? '')
    : await browserHost(options.adapter ?? 'swiftshader', options.chromium.split(' ').filter(Boolean));
  try {
    const entrants: Entrant[] = [];
    for (const name of names) {
      const bundle = await bundleOf(name, entries[name]!, options.node ? 'node' : 'browser');
      entrants.push({ name, bundle, options: optionsOf(entries[name]!, host) });
    }
    const settings = {
      rounds: Number(options.rounds),
      samples: Number(options.samples),
      budgetMs: Number(options.budget),
    };
    const report: Report = {
      date: new Date().toISOString().slice(0, 10),
      adapter: '',
      host: host.name,
      cpu: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}`,
      settings,
      versions: {},
      cases: [],
    };
    for (const c of casesOf(options)) {
      const found = await measureCase(host, c, entrants, settings, (line) => console.error(line));
      report.cases.push(found);
      for (const { contestant, version } of found.measurements) if (version) report.versions[contestant] = version;
      report.adapter = oneAdapter(found) || report.adapter;
      process.stdout.write(`${tableOf(found, peakOf(report.cases))}\n\n`);
      if (options.json) writeFileSync(options.json, `${JSON.stringify(report, null, 1)}\n`);
    }
    process.stdout.write(`adapter: ${report.adapter}; ${report.host}\n`);
  } finally {
    await host.close();
  }
  return 0;
}

function pair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new Error(`should be NAME=FILE, found "${text}"`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** @param only operators, with commas between */
function casesOf({ case: words, only }: { case: readonly string[]; only?: string | undefined }): readonly Case[] {
  const all = words.length > 0 ? words.map(parseCase) : CASES;
  const known = [...new Set(all.map(({ op }) => op))];
  const ops = only?.split(',') ?? known;
  const unknown = ops.find((op) => !known.some((other) => other === op));
  if (unknown !== undefined) throw new Error(`no case of "${unknown}"; there are ${known.join(', ')}`);
  return all.filter(({ op }) => ops.includes(op));
}

/** What a contestant is told: where it runs, and for Pilotwave which build it is. */
function optionsOf(entry: Entry, host: Host): Readonly<Record<string, unknown>> {
  const shared = { modules: host.modulesUrl, ...entry.options };
  if (entry.module !== 'pilotwave.ts') return shared;
  const file = (entry.options?.['build'] as string | undefined) ?? join(root, 'dist', 'kernels.js');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  return { ...shared, build: host.urlOf(file), version };
}

/**
 * Contestants that asked for none, because they compute on the CPU, are left out of it.
 *
 * @throws Error if contestants ran on different adapters: then no figure can be set beside another
 */
function oneAdapter({ name, measurements }: CaseReport): string {
  const adapters = [...new Set(measurements.flatMap(({ adapter }) => adapter || []))];
  if (adapters.length > 1) throw new Error(`${name}: contestants ran on ${adapters.join(' and on ')}`);
  return adapters[0] ?? '';
}
