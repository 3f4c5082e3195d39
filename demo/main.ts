/**
 * @file A page that makes ten pictures while one watches: loads the shipped models, compiles, samples, shows the
 * prediction of x_0 after each step.
 */

import { imageBytes } from '../src/diffusion/image.ts';
import { classifierGuidance, Denoiser, ddim, loadModel, PilotwaveError, Runtime, requestDevice } from '../src/index.ts';
import classifierUrl from '../weights/fashion-mnist-classifier.safetensors?url';
import unetUrl from '../weights/fashion-mnist-unet.safetensors?url';

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const status = element('status');
const facts = element('facts');
const progress = element<HTMLProgressElement>('progress');
const grid = element('grid');
const settings = element<HTMLFormElement>('settings');

function show(word: string, share: number): void {
  status.textContent = word;
  progress.value = share;
}

async function bytesOf(url: string): Promise<ArrayBuffer> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be loaded: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

function makeTiles(names: readonly string[], size: number): CanvasRenderingContext2D[] {
  return names.map((name) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: size, height: size });
    const figure = document.createElement('figure');
    const caption = Object.assign(document.createElement('figcaption'), { textContent: name });
    figure.append(canvas, caption);
    grid.append(figure);
    return canvas.getContext('2d')!;
  });
}

function draw(tiles: readonly CanvasRenderingContext2D[], samples: Float32Array, size: number): void {
  const bytes = imageBytes(samples);
  tiles.forEach((tile, i) => {
    const image = tile.createImageData(size, size);
    for (let p = 0; p < size * size; p++) image.data.fill(bytes[i * size * size + p]!, p * 4, p * 4 + 3);
    for (let p = 0; p < size * size; p++) image.data[p * 4 + 3] = 255;
    tile.putImageData(image, 0, 0);
  });
}

async function start(): Promise<void> {
  const runtime = new Runtime(await requestDevice());
  facts.textContent = runtime.adapter.software
    ? `${runtime.adapter.name}: a software adapter, computing on the CPU`
    : runtime.adapter.name;
  const [unet, classifier] = (await Promise.all([unetUrl, classifierUrl].map(bytesOf))).map((b) =>
    loadModel(runtime, b),
  );
  if (!unet?.isUNet() || !classifier?.isClassifier())
    throw new Error('the shipped checkpoints are not what they should be');
  const names = unet.config.classes!;
  const size = unet.config.model.image_size;
  const tiles = makeTiles(names, size);
  const denoiser = new Denoiser(runtime, { unet, guidance: classifierGuidance(classifier), batch: names.length });

  let running = new AbortController();
  const generate = async () => {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    const values = new FormData(settings);
    const started = performance.now();
    const run = ddim(denoiser, {
      labels: names.map((_, i) => i),
      respacing: 'ddim25',
      scale: Number(values.get('scale')),
      seed: Number(values.get('seed')),
      signal,
      onCompile: (done, total) => show(`Compiling, ${done} of ${total} kernels`, done / total),
    });
    for await (const step of run) {
      const pictures = await step.predXstart();
      if (signal.aborted) return;
      draw(tiles, pictures, size);
      show(`Sampling, step ${step.index + 1} of ${step.count}`, (step.index + 1) / step.count);
    }
    show(`Done, 25 steps in ${((performance.now() - started) / 1000).toFixed(1)} s`, 1);
  };
  settings.addEventListener('submit', (event) => {
    event.preventDefault();
    generate().catch(complain);
  });
  await generate();
}

function complain(error: unknown): void {
  if (error instanceof DOMException && error.name === 'AbortError') return;
  status.textContent = error instanceof PilotwaveError ? `Stopped: ${error.message}` : `Stopped: ${String(error)}`;
}

start().catch(complain);
