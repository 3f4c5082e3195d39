/** @file A headless browser with WebGPU, and a server for what it loads. */
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import puppeteer, { type Browser } from 'puppeteer';
import { packagedArchive, unpackOnce } from '../../src/node/vulkan.ts';
import { CHROME_FLAGS, installedChrome } from './chrome.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

const FLAGS = [...CHROME_FLAGS, '--use-webgpu-adapter=swiftshader'];

/** An installed Chrome or Chromium, else the one that @sparticuz/chromium unpacks. @throws Error if none starts */
export async function launch(): Promise<Browser> {
  const installed = installedChrome();
  if (installed) return puppeteer.launch({ executablePath: installed, args: FLAGS });
  const { default: packaged } = await import('@sparticuz/chromium');
  const executablePath = await packaged.executablePath();
  // Libraries that a machine without any browser lacks come in a second archive of the package.
  const archive = packagedArchive('al2023.tar.br');
  const libraries = archive ? unpackOnce(archive, 'pilotwave-browser-libraries') : '';
  const env = {
    ...process.env,
    LD_LIBRARY_PATH: [libraries, process.env['LD_LIBRARY_PATH']].filter(Boolean).join(':'),
  };
  return puppeteer.launch({ executablePath, args: FLAGS, headless: 'shell', env });
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.json': 'application/json',
};

/** A browser for a test file, or null where none can be started: on a developer's machine that is no fault of the code. */
export async function launchForTests(): Promise<Browser | null> {
  try {
    return await launch();
  } catch (error) {
    if (process.env['CI']) throw error; // there it would hide one
    const reason = error instanceof Error ? error.message.split('\n')[0]! : String(error);
    console.error(`No browser could be started, so the browser tests are skipped: ${reason}`);
    return null;
  }
}

/** Serves the project's folder on the loopback interface. @returns the server and its address */
export async function serve(): Promise<{ server: Server; origin: string }> {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname));
    const file = join(root, path.endsWith('/') ? `${path}index.html` : path);
    if (path.startsWith('..') || !existsSync(file) || path === '/') {
      response.writeHead(path === '/favicon.ico' ? 204 : 404).end();
      return;
    }
    response
      .writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' })
      .end(readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}
