/** @file The generation page, as built, driven in headless Chromium on its software adapter. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import type { Page } from 'puppeteer';
import { afterAll, expect, test } from 'vitest';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { CLASSIFIER_FILE, UNET_FILE } from '../models.ts';
import { launchForTests, serve } from './browser.ts';
import {
  dropFiles,
  gridPixels,
  openPage,
  phaseIs,
  prefer,
  runAfter,
  savedBy,
  settled,
  shoot,
  textOf,
} from './pages.ts';
import { SITE, siteFiles } from './site.ts';

const browser = await launchForTests();
const { server, origin } = await serve();
const address = `${origin}/${SITE}/`;
afterAll(async () => {
  await browser?.close();
  server.close();
});

/** Few images and steps: a software adapter takes about a fifth of a second for each. */
const SMALL = '?class=shirt,bag&count=2&steps=3&seed=7';
const here = test.skipIf(browser === null);
const query = (page: Page) => page.evaluate(() => location.search);
const click = (page: Page, selector: string) => page.$eval(selector, (element) => (element as HTMLElement).click());
const change = (page: Page, selector: string, value: string) =>
  page.$eval(
    selector,
    (element, v) => {
      (element as HTMLInputElement).value = v;
      element.dispatchEvent(new Event('input', { bubbles: true }));
      element.dispatchEvent(new Event('change', { bubbles: true }));
    },
    value,
  );

test('the code of a page stays below 60 kB gzipped, the engine, with kernels and tables for every kind of adapter, below 104 kB', () => {
  const files = siteFiles('index.html');
  const sizes = [...files].map(([name, data]) => ({ name, size: gzipSync(data, { level: 9 }).length }));
  const engine = sizes.find(({ name }) => name.startsWith('engine'));
  expect(engine?.size).toBeLessThan(104_000);
  const own = sizes.filter(({ name }) => !name.startsWith('engine')).reduce((sum, { size }) => sum + size, 0);
  expect(own).toBeGreaterThan(10_000);
  expect(own).toBeLessThan(60_000);
});

test('a page asks nobody else for anything', () => {
  for (const [name, data] of siteFiles('index.html')) {
    if (!name.endsWith('.js')) expect(data.toString(), name).not.toMatch(/(src|href|url)\s*[=(]\s*["']?(https?:)?\/\//);
  }
});

here('a picture appears, without a question', async () => {
  const { page, close } = await openPage(browser!, `${address}${SMALL}`);
  const start = await gridPixels(page);
  expect(start.length).toBe(2 * 784);
  await phaseIs(page, 'done');
  await settled(page);
  const made = await gridPixels(page);
  expect(made).not.toEqual(start);
  // Clothes on black: much of an image is nearly black, and something is bright.
  expect(made.filter((v) => v < 16).length).toBeGreaterThan(200);
  expect(Math.max(...made)).toBeGreaterThan(100);
  expect(await textOf(page, '#phase')).toBe('Done');
  expect(await textOf(page, '#badge')).toMatch(/Software adapter.*\d.*m?s\/step/);
  expect(await textOf(page, '#notices')).toContain('WebGPU on the CPU');
  expect(await page.$eval('#plot-p', (plot) => plot.getAttribute('aria-label'))).toMatch(/is at −?-?\d/);
  expect(await page.$$eval('#plot-g path', (paths) => paths.length)).toBe(3); // two images, and the score
  await close();
});

here('the same settings repeat bit for bit; seed, class and scale change the images', async () => {
  const { page, close } = await openPage(browser!, `${address}${SMALL}&lock=1`);
  await phaseIs(page, 'done');
  await settled(page);
  const first = await gridPixels(page);
  await runAfter(page, () => click(page, '#rail [data-go]'));
  expect(await gridPixels(page)).toEqual(first);
  await runAfter(page, () => change(page, '#seed', '8'));
  const other = await gridPixels(page);
  expect(other).not.toEqual(first);
  expect(await query(page)).toContain('seed=8');
  await runAfter(page, () => change(page, '#seed', '7'));
  expect(await gridPixels(page)).toEqual(first);
  await runAfter(page, () => click(page, '#chips label:nth-child(9) input'));
  expect(await query(page)).toContain('class=shirt&');
  const shirts = await gridPixels(page);
  expect(shirts.slice(0, 784)).toEqual(first.slice(0, 784));
  expect(shirts.slice(784)).not.toEqual(first.slice(784));
  await close();

  const again = await openPage(browser!, `${address}${SMALL}`);
  await phaseIs(again.page, 'done');
  await settled(again.page);
  expect(await gridPixels(again.page), 'a second visit by the same address').toEqual(first);
  await again.close();
});

here('stop stops within a step and keeps what is there; going on ends where an unbroken run does', async () => {
  const long = `${address}?class=shirt&count=1&steps=12&seed=7`;
  const { page, close } = await openPage(browser!, long);
  await page.waitForFunction(() => /step [3-9]/.test(document.getElementById('what')!.textContent ?? ''), {
    polling: 20,
  });
  const at = Number(/step (\d+)/.exec(await textOf(page, '#what'))![1]);
  await page.keyboard.press('Escape');
  await phaseIs(page, 'stopped');
  const stopped = Number(/step (\d+)/.exec(await textOf(page, '#what'))![1]);
  expect(stopped - at).toBeLessThanOrEqual(2); // one may have ended between reading and pressing
  expect(stopped).toBeLessThan(12);
  await settled(page);
  const kept = await gridPixels(page);
  expect(Math.max(...kept)).toBeGreaterThan(60);
  await page.$eval('#ruler input', (input) => {
    (input as HTMLInputElement).value = '1';
    input.dispatchEvent(new Event('input'));
  });
  await settled(page);
  expect(await gridPixels(page), 'the ruler looks back').not.toEqual(kept);
  await runAfter(page, () => click(page, '.go-on button'));
  const whole = await gridPixels(page);
  await close();

  const unbroken = await openPage(browser!, long);
  await phaseIs(unbroken.page, 'done');
  await settled(unbroken.page);
  expect(await gridPixels(unbroken.page)).toEqual(whole);
  await unbroken.close();
});

here('every control does what it says, and stands in the address', async () => {
  const { page, close } = await openPage(browser!, `${address}?class=shirt&count=1&steps=2&seed=7`);
  await phaseIs(page, 'done');
  await settled(page);
  let before = await gridPixels(page);
  const expectChange = async (part: string, act: () => Promise<unknown>) => {
    await runAfter(page, act);
    expect(await query(page)).toContain(part);
    const after = await gridPixels(page);
    expect(after, part).not.toEqual(before);
    before = after;
  };
  await expectChange('scale=16', () => change(page, '#scale', '400'));
  expect(await textOf(page, '#scale-out')).toBe('16');
  await page.focus('#scale');
  await expectChange('scale=15.5', () => page.keyboard.press('ArrowLeft'));
  await expectChange('guidance=free', () => click(page, 'input[value="free"]'));
  await expectChange('guidance=none', () => click(page, 'input[value="none"]'));
  expect(await page.$eval('#scale', (input) => (input as HTMLInputElement).disabled)).toBe(true);
  await expectChange('guidance=classifier', () => click(page, 'input[value="classifier"]'));
  await expectChange('eta=0.5', () => change(page, '#eta', '0.5'));
  await expectChange('sampler=ddpm', () => click(page, 'input[value="ddpm"]'));
  expect(await page.$eval('#eta', (input) => (input as HTMLInputElement).disabled)).toBe(true);
  await expectChange('sampler=dpm', () => click(page, 'input[value="dpm"]'));
  await expectChange('sampler=heun', () => click(page, 'input[value="heun"]'));
  await expectChange('sampler=ddim', () => click(page, 'input[value="ddim"]'));
  await expectChange('steps=3', () => change(page, '#steps', '3'));
  await expectChange('count=2', () => change(page, '#count', '2'));
  await expectChange('class=all', () => click(page, '#all'));
  const seed = /seed=(\d+)/.exec(await query(page))![1];
  await expectChange('seed=', () => click(page, '#dice'));
  expect(/seed=(\d+)/.exec(await query(page))![1]).not.toBe(seed);
  await change(page, '#steps', '');
  expect(await page.$eval('#steps', (input) => (input as HTMLInputElement).value), 'nonsense is put back').toBe('3');

  await click(page, '#lock');
  expect(await query(page)).toContain('lock=1');
  await click(page, 'input[value="xt"]');
  expect(await query(page)).toContain('view=xt');
  await click(page, 'input[value="x0"]');
  await click(page, '#heat');
  expect(await query(page)).toContain('heat=1');
  expect(await page.$eval('#tiles', (tiles) => tiles.className)).toContain('heat-on');
  const heat = await gridPixels(page, '#tiles canvas.heat');
  expect(heat.filter((red) => red > 0).length, 'pixels with a visible gradient').toBeGreaterThan(10);
  await page.focus('#tiles .tile');
  await page.keyboard.press('ArrowRight');
  await settled(page);
  expect(await textOf(page, '#inspect-name')).toBe('Image 2, Trouser');
  await click(page, '#explain-link');
  expect(await page.$eval('#explain', (details) => (details as HTMLDetailsElement).open)).toBe(true);
  await browser!.defaultBrowserContext().overridePermissions(origin, ['clipboard-read', 'clipboard-write']);
  await click(page, '#copy-link');
  await page.waitForFunction(() => /Copied|did not allow/.test(document.getElementById('stage')!.textContent ?? ''));
  await page.select('#model', 'fashion-mnist');
  await page.$eval('#plane-scale', (slider) => {
    (slider as HTMLInputElement).value = '300';
    slider.dispatchEvent(new Event('input'));
  });
  await settled(page);
  const within = (await page.$$eval('.plane-square figcaption', (list) => list.map((f) => f.textContent))).slice(0, 2);
  for (const text of within) expect(Number(/(\d+) %/.exec(text ?? '')![1])).toBeGreaterThan(97);
  await click(page, '.plane-controls label:nth-of-type(2) input');
  await settled(page);
  expect(await textOf(page, '.plane-square figcaption')).toContain('in B');
  await close();
});

here('the strip shows one seed at six scales, and two ways the same seed both ways', async () => {
  const { page, close } = await openPage(browser!, `${address}?class=bag&count=2&steps=4&seed=7&scale=4`);
  await phaseIs(page, 'done');
  await page.hover('#tiles li:nth-child(2) .tile');
  await settled(page);
  const main = await gridPixels(page, '#tiles li:nth-child(2) canvas:not(.heat)');
  await click(page, '#strip-run');
  await page.waitForFunction(() => !/–/.test(document.getElementById('strip')!.textContent ?? '–'), { polling: 100 });
  await settled(page);
  const strip = await gridPixels(page, '#strip canvas:not(.heat)');
  expect(strip.length).toBe(6 * 784);
  // The fourth tile is at the scale of the grid: the same image, though made in another batch.
  const difference = main.map((v, i) => Math.abs(v - strip[3 * 784 + i]!));
  expect(Math.max(...difference)).toBeLessThanOrEqual(1);
  expect(strip.slice(0, 784)).not.toEqual(strip.slice(5 * 784));
  const p = await page.$$eval('#strip .p', (list) => list.map((e) => Number(e.textContent)));
  expect(p[3], 'guided it is surer of the class than not').toBeGreaterThan(p[0]! + 0.2);

  await click(page, '#ways-run');
  await page.waitForFunction(() => !/–/.test(document.querySelector('.way.free dl')!.textContent ?? '–'), {
    polling: 100,
  });
  await settled(page);
  const classifier = await gridPixels(page, '.way.classifier li:not([hidden]) canvas:not(.heat)');
  const free = await gridPixels(page, '.way.free li:not([hidden]) canvas:not(.heat)');
  expect(classifier.length).toBe(2 * 784);
  expect(free).not.toEqual(classifier);
  await runAfter(page, () => click(page, '#strip li:nth-child(5) button'));
  expect(await query(page)).toContain('scale=8');
  expect(await textOf(page, '#strip'), 'the strip stays when one of its scales is chosen').not.toContain('–');
  await close();
});

here('what is saved carries its settings', async () => {
  const { page, close } = await openPage(browser!, `${address}${SMALL}`);
  await phaseIs(page, 'done');
  await settled(page);
  const image = await savedBy(page, '#save-image');
  expect(image.name).toBe('pilotwave-shirt-1-seed-7.png');
  const text = Buffer.from(image.bytes).toString('latin1');
  expect(text.slice(1, 4)).toBe('PNG');
  expect(text).toContain('classifier guidance, scale 4; DDIM, 3 steps; seed 7');
  expect(text).toContain('class=shirt,bag');
  const sheet = await savedBy(page, '#save-sheet');
  expect(sheet.bytes.length).toBeGreaterThan(2000);
  const film = Buffer.from((await savedBy(page, '#save-film')).bytes);
  expect(film.subarray(0, 6).toString('latin1')).toBe('GIF89a');
  expect(film.toString('latin1').split('\x21\xf9').length - 1, 'frames').toBe(3);
  await close();
});

here('a checkpoint is used, or refused with the reason', async () => {
  const { page, close } = await openPage(browser!, `${address}${SMALL}`);
  await phaseIs(page, 'done');
  await settled(page);
  const before = await gridPixels(page);
  const refusal = async (name: string, data: Uint8Array) => {
    await page.$eval('#file-result', (box) => box.replaceChildren());
    await dropFiles(page, [{ name, base64: Buffer.from(data).toString('base64') }]);
    await page.waitForSelector('#file-result [role="alert"]');
    return textOf(page, '#file-result');
  };
  expect(await refusal('notes.safetensors', Buffer.from('this is not a checkpoint at all'))).toMatch(
    /notes\.safetensors was not used.*safetensors/s,
  );
  const bare = writeSafetensors({ 'fc.weight': { dtype: 'F32', shape: [2], data: new Float32Array(2) } });
  expect(await refusal('bare.safetensors', bare)).toContain('fc.weight');
  expect(await gridPixels(page), 'nothing else changed').toEqual(before);

  const unet = readFileSync(UNET_FILE);
  await runAfter(page, () => dropFiles(page, [{ name: 'mine.safetensors', base64: unet.toString('base64') }]));
  expect(await textOf(page, '#file-result')).toContain('mine.safetensors is in use as U-Net');
  expect(await textOf(page, '#in-use')).toContain('mine.safetensors');
  expect(await query(page)).toContain('file=mine.safetensors');
  expect(await gridPixels(page), 'the same model gives the same images').toEqual(before);
  const classifier = readFileSync(CLASSIFIER_FILE);
  await runAfter(page, () => dropFiles(page, [{ name: 'judge.safetensors', base64: classifier.toString('base64') }]));
  expect(await textOf(page, '#in-use')).toContain('judge.safetensors');
  await close();
});

here('a lost device is told, the images stay, and Generate goes on with a new one', async () => {
  const { page, close } = await openPage(browser!, `${address}?class=shirt&count=1&steps=8&seed=7`, { losable: true });
  await page.waitForFunction(() => /step [3-9]/.test(document.getElementById('what')!.textContent ?? ''), {
    polling: 20,
  });
  await page.evaluate(() => window.loseDevice!());
  await phaseIs(page, 'error');
  await settled(page);
  expect(await textOf(page, '#notices [role="alert"]')).toMatch(/device was lost \(pulled out\).*as of step \d+ of 8/);
  const kept = await gridPixels(page);
  expect(Math.max(...kept)).toBeGreaterThan(60);
  await runAfter(page, () => click(page, '#rail [data-go]'));
  expect(await page.$('#notices [role="alert"]')).toBeNull();
  expect(await query(page), 'from the same seed').toContain('seed=7');
  await close();
});

here('a strip that is asked for while sampling comes first, then the images go on', async () => {
  const { page, close } = await openPage(browser!, `${address}?class=bag&count=1&steps=9&seed=7`);
  await page.waitForFunction(() => /step [2-4]\b/.test(document.getElementById('what')!.textContent ?? ''), {
    polling: 20,
  });
  await runAfter(page, () => click(page, '#strip-run'));
  expect(await textOf(page, '#strip')).not.toContain('–');
  expect(await textOf(page, '#what')).toContain('9 steps');
  await close();
});

here('without WebGPU it says what to do and shows recorded images', async () => {
  const { page, close } = await openPage(browser!, address, { webgpu: false });
  await phaseIs(page, 'no-webgpu');
  await page.waitForFunction(() => /recorded on/.test(document.getElementById('facts')!.textContent ?? ''));
  await settled(page);
  expect(await textOf(page, '#phase')).toBe('No WebGPU here');
  expect(await textOf(page, '.browsers .you')).toMatch(/Chrome.*this browser/);
  const pixels = await gridPixels(page);
  expect(pixels.length).toBe(10 * 784);
  expect(Math.max(...pixels)).toBeGreaterThan(200);
  await page.$eval('#ruler input', (input) => {
    (input as HTMLInputElement).value = '1';
    input.dispatchEvent(new Event('input'));
  });
  await settled(page);
  expect(await gridPixels(page)).not.toEqual(pixels);
  await shoot(page, 'no-webgpu-1280-light');
  await close();
});

here('pictures of the page, to be looked at', async () => {
  for (const [width, height] of [
    [1280, 800],
    [390, 844],
  ] as const) {
    const { page, close } = await openPage(browser!, `${address}?count=5&steps=5&seed=7`, { width, height });
    await phaseIs(page, 'done');
    for (const theme of ['light', 'dark'] as const) {
      await prefer(page, theme);
      await shoot(page, `generate-${width}-${theme}`);
      const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      expect(inner, 'nothing is wider than the screen').toBeLessThanOrEqual(outer!);
      const gaps = await page.$$eval('#tiles li', (places) =>
        places.map((place) => {
          const [own, image, caption] = ['.tile', '.pic', '.cap'].map((part) => place.querySelector(part)!);
          const bottom = own!.getBoundingClientRect().bottom - caption!.getBoundingClientRect().bottom;
          return [place.clientWidth - image!.clientWidth, bottom];
        }),
      );
      expect(gaps, 'images as wide as their columns, captions whole').toEqual(Array(5).fill([0, 0]));
      if (width < 500) {
        await click(page, '#sheet-button');
        expect(await page.evaluate(() => document.activeElement?.id)).toBe('model');
        await new Promise((resolve) => setTimeout(resolve, 400));
        await shoot(page, `generate-${width}-${theme}-settings`);
        await page.keyboard.press('Escape');
        expect(await page.$eval('body', (body) => body.className)).not.toContain('sheet-open');
      }
      await shoot(page, `generate-${width}-${theme}-whole`, true);
    }
    await close();
  }
});
