/** @file What can be taken away: an image, a sheet of all, an animation of the denoising, a link. */
import { encodeGif, type GifFrame } from './files/gif.ts';
import { encodePng, type Raster } from './files/png.ts';
import type { Frame, History, ImageShape } from './history.ts';
import { rgba } from './picture.ts';

/** Offers a file for saving. */
export function offer(name: string, type: string, bytes: Uint8Array<ArrayBuffer>): void {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const link = Object.assign(document.createElement('a'), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** The smallest side of a saved image: small ones are enlarged by whole pixels. */
const LEAST_SIDE = 224;

const enlargement = ({ h, w }: ImageShape, side: number): number => Math.max(1, Math.ceil(side / Math.min(h, w)));

/** One image enlarged by whole pixels, so that none is blurred. */
export function enlarged(pixels: Uint8Array, image: number, shape: ImageShape, times: number): Raster {
  const source = rgba(pixels, image, shape);
  const [width, height] = [shape.w * times, shape.h * times];
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 4 * (Math.floor(y / times) * shape.w + Math.floor(x / times));
      data.set(source.subarray(from, from + 4), 4 * (y * width + x));
    }
  }
  return { width, height, data };
}

export function imagePng(
  { shape }: History,
  pixels: Uint8Array,
  image: number,
  text: Readonly<Record<string, string>>,
): Promise<Uint8Array<ArrayBuffer>> {
  return encodePng(enlarged(pixels, image, shape, enlargement(shape, LEAST_SIDE)), text);
}

/** All images with their classes, and how they were made in a line below. */
export async function sheetPng(
  { shape }: History,
  pixels: Uint8Array,
  names: readonly string[],
  columns: number,
  line: string,
  text: Readonly<Record<string, string>>,
): Promise<Uint8Array<ArrayBuffer>> {
  const times = enlargement(shape, 112);
  const [tileW, tileH, gap, caption] = [shape.w * times, shape.h * times, 16, 24];
  const across = Math.min(columns, shape.n);
  const down = Math.ceil(shape.n / across);
  const canvas = document.createElement('canvas');
  canvas.width = gap + across * (tileW + gap);
  canvas.height = gap + down * (tileH + caption + 8) + 28;
  const context = canvas.getContext('2d')!;
  context.fillStyle = '#ffffff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.font = '13px sans-serif';
  context.textBaseline = 'top';
  for (let i = 0; i < shape.n; i++) {
    const x = gap + (i % across) * (tileW + gap);
    const y = gap + Math.floor(i / across) * (tileH + caption + 8);
    const { data, width, height } = enlarged(pixels, i, shape, times);
    context.putImageData(new ImageData(data, width, height), x, y);
    context.fillStyle = '#12181a';
    context.fillText(names[i] ?? '', x, y + tileH + 5, tileW);
  }
  context.fillStyle = '#5f6a6f';
  context.font = '12px sans-serif';
  context.fillText(line, gap, canvas.height - 26, canvas.width - 2 * gap);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  return encodePng({ data: data as Uint8ClampedArray<ArrayBuffer>, width, height }, text);
}

/** At most so many frames in an animation. */
const FRAMES = 60;

/** All images from step to step, side by side. */
export function filmGif(history: History, view: 'x0' | 'xt', columns: number): Uint8Array<ArrayBuffer> {
  const { shape } = history;
  const kept = history.frames();
  const every = Math.ceil(kept.length / FRAMES);
  const frames = kept.filter((_, i) => (kept.length - 1 - i) % every === 0);
  const times = enlargement(shape, 84);
  const across = Math.min(columns, shape.n);
  const width = across * (shape.w * times + 4) + 4;
  const height = Math.ceil(shape.n / across) * (shape.h * times + 4) + 4;
  const made = frames.map((frame, i): GifFrame => {
    const last = i === frames.length - 1;
    return { data: mosaic(frame, shape, view, { times, across, width, height }), delay: last ? 200 : 10 };
  });
  return encodeGif(width, height, made);
}

function mosaic(
  frame: Frame,
  shape: ImageShape,
  view: 'x0' | 'xt',
  { times, across, width, height }: { times: number; across: number; width: number; height: number },
): Uint8ClampedArray {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < shape.n; i++) {
    const tile = enlarged(frame[view], i, shape, times);
    const left = 4 + (i % across) * (tile.width + 4);
    const top = 4 + Math.floor(i / across) * (tile.height + 4);
    for (let y = 0; y < tile.height; y++) {
      data.set(tile.data.subarray(y * tile.width * 4, (y + 1) * tile.width * 4), 4 * ((top + y) * width + left));
    }
  }
  return data;
}
