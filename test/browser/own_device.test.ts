/**
 * @file One network by itself, from a flat set of tensors, through the built `dist/pilotwave.js` and nothing else, on a
 * device that the caller made: as somebody's harness would run it. Sizes are no shipped model's.
 *
 * Held against the sources in Node, and against the float64 loops of bench/peers, which share nothing with the engine.
 */
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Browser } from 'puppeteer';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { type ClassifierCase, type NetworkCase, networkInputs, parseCase, TIMESTEP } from '../../bench/peers/cases.ts';
import { parameterValues } from '../../bench/peers/data.ts';
import { configOf } from '../../bench/peers/model_config.ts';
import { expectedResult } from '../../bench/peers/reference/expected.ts';
import * as source from '../../src/index.ts';
import { expectClose, testRuntime } from '../device.ts';
import { launch, serve } from './browser.ts';

interface NetworkArguments {
  readonly config: source.ModelConfig;
  readonly tensors: readonly { name: string; shape: readonly number[]; values: string }[];
  readonly batch: number;
  readonly x: string;
  readonly timesteps: readonly number[];
  readonly labels?: readonly number[];
}

declare global {
  interface Window {
    evaluateNetwork(options: NetworkArguments): Promise<{ result: number[]; liveBytes: number }>;
  }
}

const BUNDLE = fileURLToPath(new URL('../../dist/pilotwave.js', import.meta.url));

/** Maps of odd sides, more channels below, heads of a width that is no multiple of 4. */
const UNET = parseCase('unet:size=18,base=32,mult=1-3,blocks=1,attention=9,headChannels=6') as NetworkCase;
/** One channel in, several pictures at once. */
const GRADIENT = parseCase(
  'gradient:batch=3,size=12,in=1,base=32,mult=3-1-2,blocks=1,attention=6,headChannels=32,classes=7,label=5',
) as ClassifierCase;

const floats = (c: NetworkCase) =>
  source.modelParameters(configOf(c)).map(({ name, shape }) => ({ name, shape, values: parameterValues(name, shape) }));

const settings = (c: NetworkCase) => ({
  timesteps: new Array<number>(c.batch).fill(TIMESTEP),
  ...(c.op === 'gradient' && { labels: new Array<number>(c.batch).fill(c.label) }),
});

/** @param library the sources, or a build of them */
async function evaluate(library: typeof source, device: GPUDevice, c: NetworkCase): Promise<Float32Array> {
  const runtime = new library.Runtime(device);
  const tensors = new Map(
    floats(c).map(({ name, shape, values }) => {
      return [name, { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer) }] as const;
    }),
  );
  const config = configOf(c);
  const model = library.buildModel(runtime, { tensors, metadata: new Map() }, config);
  const network = await library.Network.create(runtime, model, { batch: c.batch, gradient: c.op === 'gradient' });
  network.set({ x: networkInputs(c).x, ...settings(c) });
  await network.run();
  const result = await network.read(c.op === 'gradient' ? 'gradient' : 'output');
  network.dispose();
  model.dispose();
  runtime.dispose();
  expect(runtime.buffers.liveBytes).toBe(0);
  return result;
}

const base64 = (values: Float32Array): string =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');

let browser: Browser | null = null;
try {
  browser = await launch();
} catch (error) {
  if (process.env['CI']) throw error;
  console.error(`No browser could be started, so a browser test is skipped: ${error}`);
}
afterAll(() => browser?.close());
afterEach(() => vi.unstubAllGlobals());

const runtime = await testRuntime();

describe.each([
  ['U-Net', UNET],
  ['classifier’s gradient', GRADIENT],
] as const)('a %s from tensors', (_what, c) => {
  const expected = expectedResult(c);

  test('through the build in Node is what the sources give, and right', async () => {
    const build = (await import(/* @vite-ignore */ pathToFileURL(BUNDLE).href)) as typeof source;
    const fromSources = await evaluate(source, runtime.device, c);
    vi.stubGlobal('fetch', () => {
      throw new Error('a network of tensors in memory has nothing to fetch');
    });
    const fromBuild = await evaluate(build, runtime.device, c);
    expect(build.Runtime).not.toBe(source.Runtime);
    expect(fromBuild).toEqual(fromSources);
    expectClose(fromBuild, expected, 5e-6);
  });

  test.skipIf(browser === null)('in a page, on a device with WebGPU’s least limits, is the same', async () => {
    const { server, origin } = await serve();
    const page = await browser!.newPage();
    const requests: string[] = [];
    page.on('request', (request) => requests.push(new URL(request.url()).pathname));
    try {
      await page.goto(`${origin}/test/browser/own_device.html`);
      await page.waitForFunction('window.ready === true');
      const { result, liveBytes } = await page.evaluate((options) => window.evaluateNetwork(options), {
        config: configOf(c),
        tensors: floats(c).map((tensor) => ({ ...tensor, values: base64(tensor.values) })),
        batch: c.batch,
        x: base64(networkInputs(c).x),
        ...settings(c),
      });
      expectClose(result, expected, 5e-6);
      expect(liveBytes).toBe(0);
      expect(requests.filter((path) => path !== '/favicon.ico')).toEqual([
        '/test/browser/own_device.html',
        '/dist/pilotwave.js',
      ]);
    } finally {
      await page.close();
      server.close();
    }
  });
});
