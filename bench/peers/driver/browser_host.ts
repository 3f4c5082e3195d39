/**
 * @file Headless Chromium: a browser for each case, so that a first call compiles everything; a page for each contestant.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import puppeteer, { type Browser } from 'puppeteer-core';
import { CHROME_FLAGS, installedChrome } from '../../../test/browser/chrome.ts';
import type { Host, Seat } from './host.ts';
import { bundles, modules } from './places.ts';

const FLAGS = [
  ...CHROME_FLAGS,
  // A page that waits for its turn must not be slowed for being behind another.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  // Some peers hold a software adapter for longer than Chrome's patience.
  '--disable-gpu-watchdog',
];

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

const HOUR = 3_600_000;

/** @param adapter "swiftshader", or "gpu" for whatever the browser chooses */
export async function browserHost(adapter: string, moreFlags: readonly string[]): Promise<Host> {
  const executablePath = installedChrome();
  if (!executablePath) throw new Error('no Chrome or Chromium found; CHROME_PATH may name one');
  const args = [...FLAGS, ...(adapter === 'gpu' ? [] : [`--use-webgpu-adapter=${adapter}`]), ...moreFlags];
  const launch = () => puppeteer.launch({ executablePath, args, protocolTimeout: HOUR });

  const builds: string[] = [];
  const { server, origin } = await serve((path) => {
    if (path === '/') return '';
    const [, place = '', ...rest] = path.split('/');
    if (place === 'bundles') return join(bundles, ...rest);
    if (place === 'modules') return join(modules, ...rest);
    return place === 'build' ? (builds[Number.parseInt(rest[0] ?? '', 10)] ?? null) : null;
  });

  let browser: Browser | null = null;
  const first = await launch();
  const name = await first.version();
  await first.close();
  return {
    name,
    modulesUrl: `${origin}/modules/`,
    urlOf: (file) => `${origin}/build/${builds.push(file) - 1}.js`,
    async beginCase() {
      browser = await launch();
    },
    seat: (bundle) => openPage(browser!, origin, `${origin}/bundles/${bundle}`),
    async endCase() {
      await browser?.close();
      browser = null;
    },
    async close() {
      await browser?.close();
      server.close();
    },
  };
}

async function openPage(browser: Browser, origin: string, url: string): Promise<Seat> {
  const page = await browser.newPage();
  await page.goto(origin);
  await page.evaluate(async (address) => {
    (globalThis as { peer?: unknown }).peer = await import(address);
  }, url);
  const call = async (method: string, ...args: unknown[]) => {
    await page.bringToFront();
    return page.evaluate(
      (name, values) =>
        (globalThis as unknown as { peer: Record<string, (...all: unknown[]) => unknown> }).peer[name]!(...values),
      method,
      args,
    );
  };
  return {
    start: (...args) => call('start', ...args) as ReturnType<Seat['start']>,
    warmUp: () => call('warmUp') as Promise<void>,
    round: (...args) => call('round', ...args) as ReturnType<Seat['round']>,
    close: () => page.close(),
  };
}

/** @param fileOf the file for a path, empty for a blank page, null for nothing */
async function serve(fileOf: (path: string) => string | null) {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname));
    const file = fileOf(path);
    if (file === null || (file !== '' && !(existsSync(file) && statSync(file).isFile()))) {
      response.writeHead(path === '/favicon.ico' ? 204 : 404).end();
      return;
    }
    const type = file === '' ? 'text/html' : (TYPES[extname(file)] ?? 'application/octet-stream');
    response
      .writeHead(200, { 'content-type': type, 'cache-control': 'no-store' })
      .end(file === '' ? '<!doctype html><title>peers</title>' : readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}
