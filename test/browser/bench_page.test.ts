/** @file The benchmark page, as built, driven in headless Chromium on its software adapter. */
import type { Page } from 'puppeteer';
import { afterAll, expect, test } from 'vitest';
import { parseResult } from '../../bench/results.ts';
import { launchForTests, serve } from './browser.ts';
import { openPage, phaseIs, prefer, savedBy, settled, shoot, textOf } from './pages.ts';
import { SITE } from './site.ts';

const browser = await launchForTests();
const { server, origin } = await serve();
/** One family with one short shape. */
const address = `${origin}/${SITE}/bench/?family=Resampling&shapes=Shipped+models`;
afterAll(async () => {
  await browser?.close();
  server.close();
});

const here = test.skipIf(browser === null);
const click = (page: Page, selector: string) => page.$eval(selector, (element) => (element as HTMLElement).click());

here('a part is run, kept, compared, and linked', async () => {
  const { page, close } = await openPage(browser!, address);
  await phaseIs(page, 'ready');
  expect(await textOf(page, '#adapter')).toBe('SwiftShader, a software adapter');
  expect(await textOf(page, '#tables')).toContain('not run yet');
  await click(page, '#run');
  await phaseIs(page, 'done');
  await settled(page);
  expect(await textOf(page, '#peak-fma')).toMatch(/^[\d.]+ GFLOP\/s$/);
  expect(await textOf(page, '#peak-launch')).toMatch(/s$/);
  expect(await textOf(page, '#adapter-sub')).toMatch(/timed with (timestamp queries|wall clock)/);
  expect(await page.$$eval('.kt .pick', (rows) => rows.length)).toBe(1);
  expect(await textOf(page, '.kt .pick .tf')).toMatch(/\d.*s±\d/);
  expect(await page.$$eval('#roof path.roof', (paths) => paths.length)).toBe(1);

  const saved = await savedBy(page, '.end [data-act="save"]');
  expect(saved.name).toMatch(/^pilotwave-bench-swiftshader-\d{4}-\d\d-\d\d\.json$/);
  const text = Buffer.from(saved.bytes).toString();
  const result = parseResult(text);
  expect(result.adapter.software).toBe(true);
  expect(result.rows.length).toBe(1);

  const give = (name: string, content: string) =>
    page.evaluate(
      (n, c) => {
        const input = document.getElementById('file') as HTMLInputElement;
        const transfer = new DataTransfer();
        transfer.items.add(new File([c], n));
        input.files = transfer.files;
        input.dispatchEvent(new Event('change'));
      },
      name,
      content,
    );
  await give('other.json', text);
  await page.waitForSelector('#vs:not([hidden])');
  expect(await textOf(page, '#vs-text')).toContain('other.json');
  expect(await textOf(page, '#vs-text')).toContain('1 of 1 row in common');
  expect(await textOf(page, '.kt .pick .tf .x')).toBe('1.00×');
  await click(page, '#vs-close');
  expect(await page.$('.kt .x')).toBeNull();
  await give('bad.json', '{"format": "something else"}');
  await page.waitForSelector('#notices [role="alert"]');
  expect(await textOf(page, '#notices')).toContain('bad.json was not used');

  await page.evaluate(() => {
    navigator.clipboard.writeText = async (copied) => {
      document.body.dataset['copied'] = copied;
    };
  });
  await click(page, '.end [data-act="link"]');
  await page.waitForFunction(() => document.body.dataset['copied'] !== undefined);
  const link = await page.evaluate(() => document.body.dataset['copied']!);
  await close();

  const linked = await openPage(browser!, link);
  await phaseIs(linked.page, 'ready');
  expect(await textOf(linked.page, '#notices')).toContain('A result from a link');
  expect(await linked.page.$$eval('.kt .pick', (rows) => rows.length)).toBe(1);
  await linked.close();
});

here('whole models are timed by layer, and stop stops', async () => {
  const { page, close } = await openPage(browser!, `${origin}/${SITE}/bench/?family=Models&shapes=Shipped+models`);
  await phaseIs(page, 'ready');
  await click(page, '#run');
  await page.waitForSelector('.stack', { timeout: 100_000 });
  await page.keyboard.press('Escape');
  await phaseIs(page, 'stopped');
  expect(await textOf(page, '#progress')).toMatch(/Stopped after \d of 5 parts/);
  expect(await textOf(page, '#models')).toContain('not run yet');
  expect(await page.$$eval('.stack button', (layers) => layers.length)).toBeGreaterThan(60);
  await page.focus('.stack button');
  await page.keyboard.press('ArrowRight');
  expect(await textOf(page, '#tip')).toMatch(/^U-Net, .+: .+ alone, [\d.]+ % of all layers$/);
  await shoot(page, 'bench-1280-light-models', true);
  await close();
});

here('pictures of the page, to be looked at', async () => {
  for (const [width, height] of [
    [1280, 800],
    [390, 844],
  ] as const) {
    const { page, close } = await openPage(browser!, address, { width, height });
    await phaseIs(page, 'ready');
    await click(page, '#run');
    await phaseIs(page, 'done');
    for (const theme of ['light', 'dark'] as const) {
      await prefer(page, theme);
      await shoot(page, `bench-${width}-${theme}`);
      const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      expect(inner, 'nothing is wider than the screen').toBeLessThanOrEqual(outer!);
    }
    await close();
  }
});

here('without WebGPU it says what to do', async () => {
  const { page, close } = await openPage(browser!, address, { webgpu: false });
  await phaseIs(page, 'no-webgpu');
  expect(await textOf(page, '#notices')).toContain('this browser does not offer it');
  expect(await page.$eval('#run', (button) => (button as HTMLButtonElement).disabled)).toBe(true);
  await close();
});
