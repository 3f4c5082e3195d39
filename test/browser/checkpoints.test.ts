/** @file A checkpoint from a URL in headless Chromium: cached, resumed, checked, cleared. */
import type { Browser } from 'puppeteer';
import { afterAll, expect, test } from 'vitest';
import { modelParameters } from '../../src/checkpoints/config.ts';
import { parseFlags } from '../../src/checkpoints/flags.ts';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { serveFiles } from '../checkpoints/file_server.ts';
import { launch, serve } from './browser.ts';

interface Loaded {
  kind?: string;
  bytes?: number;
  error?: string;
  steps: { loaded: number; cached: number; total: number }[];
  liveBytes: number;
}

declare global {
  interface Window {
    load(url: string, abortAfter?: number): Promise<Loaded>;
    damage(name: string): Promise<void>;
    clearCache(): Promise<string[]>;
    withoutPrivateFiles(): Promise<string[]>;
  }
}

let browser: Browser | null = null;
try {
  browser = await launch();
} catch (error) {
  if (process.env['CI']) throw error;
  console.error(`No browser could be started, so the browser test is skipped: ${error}`);
}
afterAll(() => browser?.close());

/** A U-Net of a few chunks that does not say what it is. */
function checkpoint(): Uint8Array {
  const config = parseFlags('--image_size 16 --channel_mult 1,2 --num_channels 96 --num_res_blocks 1').config('unet');
  return writeSafetensors(
    Object.fromEntries(
      modelParameters(config).map(({ name, shape }) => [
        name,
        { dtype: 'F32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
      ]),
    ),
  );
}

test.skipIf(browser === null)('fetched, cached, resumed, repaired and cleared', async () => {
  const bytes = checkpoint();
  const chunk = 4 * 2 ** 20;
  expect(bytes.length).toBeGreaterThan(3 * chunk);
  const [{ server, origin }, files] = await Promise.all([serve(), serveFiles({ model: { bytes, etag: '"one"' } })]);
  const page = await browser!.newPage();
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  const url = `${files.origin}/model`;
  const load = (abortAfter?: number): Promise<Loaded> =>
    page.evaluate((u, a) => window.load(u, a), url, abortAfter ?? Number.MAX_SAFE_INTEGER);
  const downloads = () => {
    const gets = files.log.filter(({ method }) => method === 'GET').map(({ range }) => range);
    files.log.length = 0;
    return gets;
  };
  try {
    await page.goto(`${origin}/test/browser/checkpoints.html`);
    await page.waitForFunction('window.ready === true');

    const stopped = await load(2 * chunk);
    expect(stopped).toMatchObject({ error: 'stopped by the page', liveBytes: 0 });
    expect(downloads()).toEqual([null]);

    const resumed = await load();
    // What stays is the runtime's own placeholders.
    expect(resumed).toMatchObject({ kind: 'unet', liveBytes: 256 * 17 });
    expect(resumed.bytes).toBeGreaterThan(0.9 * bytes.length);
    expect(resumed.steps.at(-1)).toMatchObject({ loaded: bytes.length, cached: 2 * chunk, total: bytes.length });
    expect(downloads()).toEqual([`bytes=${2 * chunk}-`]);

    const cached = await load();
    expect(cached.steps.at(-1)).toMatchObject({ loaded: bytes.length, cached: bytes.length });
    expect(downloads()).toEqual([]);

    await page.evaluate(() => window.damage('1'));
    const repaired = await load();
    expect(repaired).toMatchObject({ kind: 'unet' });
    expect(downloads()).toEqual([`bytes=${chunk}-`]);
    expect((await load()).steps.at(-1)).toMatchObject({ cached: bytes.length });
    expect(downloads()).toEqual([]);

    expect(await page.evaluate(() => window.clearCache())).toEqual([]);
    await load();
    expect(downloads()).toEqual([null]);

    // The same where only the Cache API can be written to.
    expect(await page.evaluate(() => window.withoutPrivateFiles())).toEqual([]);
    await load();
    expect(downloads()).toEqual([null]);
    expect((await load()).steps.at(-1)).toMatchObject({ cached: bytes.length });
    expect(downloads()).toEqual([]);
    expect(complaints).toEqual([]);
  } finally {
    await page.close();
    server.close();
    files.close();
  }
});
