/** @file The built bundle in headless Chromium makes the pictures that Node makes. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Browser } from 'puppeteer';
import { afterAll, expect, test } from 'vitest';
import { classifierGuidance } from '../../src/diffusion/guidance.ts';
import { sample } from '../../src/diffusion/sample.ts';
import { expectClose, testRuntime } from '../device.ts';
import { shippedModels } from '../models.ts';
import { launch, serve } from './browser.ts';

declare global {
  interface Window {
    ready?: boolean;
    generate(options: object): Promise<{
      samples: number[];
      shape: number[];
      steps: number[];
      adapter: { name: string; software: boolean };
      liveBytes: number;
    }>;
  }
}

const bundle = fileURLToPath(new URL('../../dist/pilotwave.js', import.meta.url));

let browser: Browser | null = null;
let reason = '';
try {
  browser = await launch();
} catch (error) {
  reason = error instanceof Error ? error.message.split('\n')[0]! : String(error);
  // On a developer's machine a missing browser is no fault of the code; in CI it would hide one.
  if (process.env['CI']) throw error;
  console.error(`No browser could be started, so the browser test is skipped: ${reason}`);
}
afterAll(() => browser?.close());

test('the bundle has no imports', () => {
  expect(readFileSync(bundle, 'utf8')).not.toMatch(/^\s*import\b.*from|\bimport\(|\brequire\(/m);
});

test.skipIf(browser === null)('the same seed gives the same picture in Chromium and in Node', async () => {
  const { server, origin } = await serve();
  const page = await browser!.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  const options = { labels: [9, 0], respacing: 'ddim10', scale: 4, seed: 3 };
  try {
    await page.goto(`${origin}/test/browser/page.html`);
    await page.waitForFunction('window.ready === true');
    const found = await page.evaluate((o) => window.generate(o), options);
    expect(found.shape).toEqual([2, 1, 28, 28]);
    expect(found.steps).toEqual([900, 800, 700, 600, 500, 400, 300, 200, 100, 0]);
    expect(found.adapter.name).not.toBe('');
    expect(found.liveBytes).toBe(0);
    expect(complaints).toEqual([]);

    const runtime = await testRuntime();
    const { unet, classifier } = shippedModels(runtime);
    const { samples } = await sample(runtime, { unet, guidance: classifierGuidance(classifier), ...options });
    expectClose(found.samples, samples, 2e-5);
  } finally {
    await page.close();
    server.close();
  }
});
