/** @file What a visitor without WebGPU can do, this browser's and system's advice first. */
import { make } from './shell/dom.ts';
import { icon } from './shell/icons.ts';

export type Browser = 'chrome' | 'firefox' | 'safari' | 'other';
export type System = 'windows' | 'macos' | 'ios' | 'android' | 'linux' | 'other';

export interface Visitor {
  readonly browser: Browser;
  readonly system: System;
  readonly version: number | null;
}

/** From the browser's own description. All browsers of iOS are Safari inside. */
export function readVisitor(agent: string, touchPoints = 0): Visitor {
  const ios = /iPhone|iPad|iPod/.test(agent) || (/Macintosh/.test(agent) && touchPoints > 1);
  const system: System = ios
    ? 'ios'
    : /Android/.test(agent)
      ? 'android'
      : /Windows/.test(agent)
        ? 'windows'
        : /Macintosh|Mac OS X/.test(agent)
          ? 'macos'
          : /Linux|X11|CrOS/.test(agent)
            ? 'linux'
            : 'other';
  const found =
    (ios && /Version\/(\d+)/.exec(agent)) ||
    /(?:Chrome|Chromium|Firefox)\/(\d+)/.exec(agent) ||
    /Version\/(\d+)/.exec(agent);
  const browser: Browser = ios
    ? 'safari'
    : /Firefox\//.test(agent)
      ? 'firefox'
      : /Chrom(e|ium)\//.test(agent)
        ? 'chrome'
        : /Safari\//.test(agent)
          ? 'safari'
          : 'other';
  return { browser, system, version: found ? Number(found[1]) : null };
}

interface Advice {
  readonly browser: Browser;
  readonly systems: readonly System[];
  readonly title: string;
  /** Text with `code` in back quotes. */
  readonly text: string;
}

const ADVICE: readonly Advice[] = [
  {
    browser: 'chrome',
    systems: ['windows', 'macos', 'other'],
    title: 'Chrome, Edge',
    text: 'Version 113 or later. In Settings, System, turn on “Use graphics acceleration when available”, then restart the browser. `chrome://gpu` says what is missing.',
  },
  {
    browser: 'chrome',
    systems: ['linux'],
    title: 'Chrome, Edge on Linux',
    text: 'Version 144 or later on a recent driver. Before, or where the driver is not on Chrome’s list: start it with `--enable-unsafe-webgpu --enable-features=Vulkan`. `chrome://gpu` says what is missing.',
  },
  {
    browser: 'chrome',
    systems: ['android'],
    title: 'Chrome on Android',
    text: 'Version 121 or later on Android 12 or later, with a GPU of Qualcomm, ARM or Imagination.',
  },
  {
    browser: 'safari',
    systems: ['macos', 'other'],
    title: 'Safari on the Mac',
    text: 'macOS 26 or later: nothing to set. Before: use Chrome or Edge.',
  },
  {
    browser: 'safari',
    systems: ['ios'],
    title: 'iPhone and iPad',
    text: 'iOS or iPadOS 26 or later, in every browser. Before: Settings, Apps, Safari, Advanced, Feature Flags, turn on “WebGPU”.',
  },
  {
    browser: 'firefox',
    systems: ['windows', 'macos', 'other'],
    title: 'Firefox',
    text: 'Version 141 or later on Windows, 145 on a Mac with Apple’s chip. Elsewhere set `dom.webgpu.enabled` to true in `about:config`, then restart.',
  },
  {
    browser: 'firefox',
    systems: ['linux', 'android'],
    title: 'Firefox on Linux and Android',
    text: 'In `about:config`, set `dom.webgpu.enabled` to true, then restart. If that does not help, use Chrome.',
  },
];

/** All advice in the order that suits the visitor. */
export function adviceFor({ browser, system }: Visitor): { advice: Advice; here: boolean }[] {
  const rank = (a: Advice) => (a.browser === browser ? 2 : 0) + (a.systems.includes(system) ? 1 : 0);
  const sorted = [...ADVICE].sort((a, b) => rank(b) - rank(a));
  return sorted.map((advice, i) => ({ advice, here: i === 0 && rank(advice) === 3 }));
}

/** Text with `code`. */
function withCode(text: string): (string | Node)[] {
  return text.split('`').map((part, i) => (i % 2 === 0 ? part : make('code', {}, part)));
}

/**
 * @param reason what the browser answered, in words
 * @param below what is shown instead, as a sentence and as a heading; null for nothing
 */
export function showAdvice(
  host: HTMLElement,
  reason: string,
  secure: boolean,
  below: { readonly sentence: string; readonly heading: string } | null,
): void {
  const items = adviceFor(readVisitor(navigator.userAgent, navigator.maxTouchPoints)).map(({ advice, here }) => ({
    here,
    item: make(
      'li',
      { class: here ? 'you' : null },
      make('b', {}, advice.title, here && make('span', { class: 'here' }, 'this browser')),
      make('span', {}, ...withCode(advice.text)),
    ),
  }));
  const [first, others] = [items.filter(({ here }) => here), items.filter(({ here }) => !here)];
  const insecure = make(
    'li',
    { class: 'you' },
    make('b', {}, 'This address', make('span', { class: 'here' }, 'not secure')),
    make('span', {}, 'WebGPU is given only to pages from https or from localhost. Open this page by such an address.'),
  );
  const remote = make(
    'li',
    {},
    make('b', {}, 'Remote desktop, virtual machine'),
    make('span', {}, 'Often there is no GPU at all: open this page on the machine in front of you.'),
  );
  host.replaceChildren(
    make(
      'p',
      { class: 'lead' },
      `Pilotwave computes on the graphics processor through WebGPU, and ${reason}. Here is what to do.${below ? ` ${below.sentence}` : ''}`,
    ),
    make('ul', { class: 'browsers' }, ...(secure ? [] : [insecure]), ...first.map(({ item }) => item), remote),
    make(
      'details',
      // Where the browser was not recognised, the list is the advice.
      { class: 'explain', open: first.length === 0 },
      make('summary', {}, icon('chevron', 'icon chev'), 'Other browsers and systems'),
      make('ul', { class: 'browsers' }, ...others.map(({ item }) => item)),
    ),
    ...(below ? [make('h2', { class: 'rec' }, below.heading)] : []),
  );
  host.hidden = false;
}
