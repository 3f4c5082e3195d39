/** @file Images and heat maps as pixels. */
import type { ImageShape } from './history.ts';
import { make } from './shell/dom.ts';

/** RGBA of one image of a batch. */
export function rgba(pixels: Uint8Array, image: number, { c, h, w }: ImageShape): Uint8ClampedArray<ArrayBuffer> {
  const area = h * w;
  const from = image * c * area;
  const data = new Uint8ClampedArray(area * 4);
  for (let p = 0; p < area; p++) {
    for (let k = 0; k < 3; k++) data[p * 4 + k] = pixels[from + (c >= 3 ? k : 0) * area + p]!;
    data[p * 4 + 3] = 255;
  }
  return data;
}

/** Where the gradient asks for lighter (teal) and for darker (orange): the same in both themes, over a grey image. */
const LIGHTER = [25, 181, 201] as const;
const DARKER = [242, 140, 40] as const;
/** Below this share of the maximum nothing is drawn, so that the image stays readable. */
const THRESHOLD = 0.16;

export function heatRgba(heat: Int8Array, image: number, { h, w }: ImageShape): Uint8ClampedArray<ArrayBuffer> {
  const area = h * w;
  const data = new Uint8ClampedArray(area * 4);
  for (let p = 0; p < area; p++) {
    const value = heat[image * area + p]! / 127;
    data.set(value > 0 ? LIGHTER : DARKER, p * 4);
    data[p * 4 + 3] = 225 * Math.min(1, Math.max(0, (Math.abs(value) - THRESHOLD) / 0.6));
  }
  return data;
}

/** A square for one image, with the heat map above it. */
export class Picture {
  readonly element = make('span', { class: 'pic' });
  readonly #image = make('canvas');
  readonly #heat = make('canvas', { class: 'heat' });

  constructor() {
    this.element.append(this.#image, this.#heat);
  }

  show(pixels: Uint8Array, image: number, shape: ImageShape): void {
    put(this.#image, rgba(pixels, image, shape), shape);
  }

  /** @param heat null to show none */
  showHeat(heat: Int8Array | null, image: number, shape: ImageShape): void {
    this.#heat.hidden = heat === null;
    if (heat) put(this.#heat, heatRgba(heat, image, shape), shape);
  }
}

function put(canvas: HTMLCanvasElement, data: Uint8ClampedArray<ArrayBuffer>, { h, w }: ImageShape): void {
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  canvas.getContext('2d')?.putImageData(new ImageData(data, w, h), 0, 0);
}
