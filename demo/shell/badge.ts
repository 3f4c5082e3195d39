/** @file The badge in the header: on what it runs, and how fast. */
import type { AdapterDescription } from '../../src/index.ts';
import { byId, make } from './dom.ts';
import { icon } from './icons.ts';
import { milliseconds } from './words.ts';

const VENDORS: Readonly<Record<string, string>> = {
  nvidia: 'NVIDIA',
  amd: 'AMD',
  intel: 'Intel',
  apple: 'Apple',
  qualcomm: 'Qualcomm',
  arm: 'ARM',
  'img-tec': 'Imagination',
  microsoft: 'Microsoft',
};

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Vendor, and what else the adapter says of itself. */
export function adapterWords({ vendor, architecture, name }: AdapterDescription): { short: string; long: string } {
  const short = VENDORS[vendor] ?? (vendor ? capital(vendor) : name);
  if (/swiftshader|lavapipe|llvmpipe/i.test(`${name} ${architecture}`)) {
    const found = /swiftshader|lavapipe|llvmpipe/i.exec(`${name} ${architecture}`)![0];
    return { short: capital(found.toLowerCase()).replace('shader', 'Shader'), long: '' };
  }
  return { short, long: architecture ? capital(architecture) : '' };
}

/** @param stepMs milliseconds a step, measured here; null before */
export function showBadge(adapter: AdapterDescription, stepMs: number | null): void {
  const badge = byId('badge');
  const { short, long } = adapterWords(adapter);
  badge.classList.toggle('warn', adapter.software);
  const rate = stepMs === null ? 'not measured yet' : `${milliseconds(stepMs)}/step`;
  const name = adapter.software
    ? make('span', {}, 'Software', make('span', { class: 'name-long' }, ' adapter'))
    : make('span', {}, short, make('span', { class: 'name-long' }, long && ` ${long}`));
  badge.replaceChildren(
    adapter.software ? icon('warn') : make('i', { class: 'dot' }),
    name,
    make('i', { class: stepMs === null ? 'sep name-long' : 'sep' }),
    make('span', { class: stepMs === null ? 'rate name-long' : 'rate' }, rate),
  );
  badge.title = `${short} ${long}`.trim() + (adapter.software ? ', computing on the CPU' : '');
}

export function showNoAdapter(): void {
  const badge = byId('badge');
  badge.classList.add('warn');
  badge.replaceChildren(icon('warn'), make('span', {}, 'No WebGPU'));
}
