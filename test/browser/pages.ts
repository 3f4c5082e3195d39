/** @file The built pages in a browser: opened, watched for complaints, looked at. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, Page } from 'puppeteer';
import { expect } from 'vitest';
import { root } from './site.ts';

/** Ignored by git: pictures of the pages, to be looked at. */
const SHOTS = join(root, 'out', 'pages');

declare global {
  interface Window {
    loseDevice?: () => void;
  }
}

export interface Opened {
  readonly page: Page;
  /** Whatever the console or an exception said. */
  readonly complaints: string[];
  close(): Promise<void>;
}

export interface OpenOptions {
  readonly width?: number;
  readonly height?: number;
  readonly webgpu?: boolean;
  /** Gives the page a `loseDevice()`, after which its device counts as lost. */
  readonly losable?: boolean;
}

export async function openPage(
  browser: Browser,
  url: string,
  { width = 1280, height = 800, webgpu = true, losable = false }: OpenOptions = {},
): Promise<Opened> {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('requestfailed', (request) => complaints.push(`${request.url()} failed`));
  page.on('response', (response) => {
    if (response.status() >= 400) complaints.push(`${response.url()} ${response.status()}`);
  });
  if (!webgpu) {
    await page.evaluateOnNewDocument(() => Object.defineProperty(navigator, 'gpu', { value: undefined }));
  }
  if (losable) {
    await page.evaluateOnNewDocument(() => {
      const request = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (descriptor) {
        const device = await request.call(this, descriptor);
        const lost = new Promise<GPUDeviceLostInfo>((resolve) => {
          window.loseDevice = () => resolve({ reason: 'unknown', message: 'pulled out' } as GPUDeviceLostInfo);
        });
        Object.defineProperty(device, 'lost', { value: lost });
        return device;
      };
    });
  }
  await prefer(page, 'light');
  const phone = width < 500;
  await page.setViewport({ width, height, isMobile: phone, hasTouch: phone });
  page.setDefaultTimeout(100_000);
  await page.goto(url);
  return {
    page,
    complaints,
    close: async () => {
      await context.close();
      expect(complaints, 'what the console said').toEqual([]);
    },
  };
}

/** What the visitor prefers; an open page follows it. */
export const prefer = (page: Page, theme: 'light' | 'dark'): Promise<void> =>
  page.emulateMediaFeatures([
    { name: 'prefers-color-scheme', value: theme },
    { name: 'prefers-reduced-motion', value: 'no-preference' },
  ]);

export const phaseIs = (page: Page, phase: string): Promise<unknown> =>
  page.waitForFunction((wanted) => document.body.dataset['phase'] === wanted, { polling: 50 }, phase);

/** Waits for a run that begins after `act`, to its end. */
export async function runAfter(page: Page, act: () => Promise<unknown>): Promise<void> {
  await page.evaluate(() => {
    document.body.dataset['phase'] = 'waiting for the test';
  });
  await act();
  await phaseIs(page, 'done');
  await settled(page);
}

/** Two animation frames: what was to be drawn has been drawn. */
export const settled = (page: Page): Promise<void> =>
  page.evaluate(
    () => new Promise<void>((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve()))),
  );

/** The grey values of the images in the grid, all in a row. */
export const gridPixels = (page: Page, selector = '#tiles canvas:not(.heat)'): Promise<number[]> =>
  page.evaluate((chosen) => {
    const values: number[] = [];
    const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true })!;
    for (const canvas of document.querySelectorAll<HTMLCanvasElement>(chosen)) {
      copy.canvas.width = canvas.width;
      copy.canvas.height = canvas.height;
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0; i < data.length; i += 4) values.push(data[i]!);
    }
    return values;
  }, selector);

export const textOf = (page: Page, selector: string): Promise<string> =>
  page.$eval(selector, (element) => element.textContent ?? '');

export async function shoot(page: Page, name: string, fullPage = false): Promise<void> {
  mkdirSync(SHOTS, { recursive: true });
  await settled(page);
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage });
}

/** Drops files on the page, as a hand would. */
export const dropFiles = (page: Page, files: readonly { name: string; base64: string }[]): Promise<void> =>
  page.evaluate((list) => {
    const dataTransfer = new DataTransfer();
    for (const { name, base64 } of list) {
      dataTransfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
    }
    for (const type of ['dragenter', 'dragover', 'drop']) {
      document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
    }
  }, files);

/** Catches what a press offers for saving: its name and its bytes. */
export const savedBy = (page: Page, selector: string): Promise<{ name: string; bytes: number[] }> =>
  page.evaluate(
    (chosen) =>
      new Promise<{ name: string; bytes: number[] }>((resolve) => {
        const click = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = function () {
          HTMLAnchorElement.prototype.click = click;
          void fetch(this.href)
            .then((response) => response.arrayBuffer())
            .then((buffer) => resolve({ name: this.download, bytes: [...new Uint8Array(buffer)] }));
        };
        document.querySelector<HTMLButtonElement>(chosen)!.click();
      }),
    selector,
  );
