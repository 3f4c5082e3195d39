/**
 * @file Pictures side by side, each with its class under it.
 */
import { imageBytes } from '../diffusion/image.ts';
import { drawText, GLYPH_HEIGHT, textWidth } from './font.ts';
import type { Raster } from './png.ts';

export interface Sheet {
  /** [N, C, H, W] in about [-1, 1]; C is 1 or 3. */
  readonly samples: Float32Array;
  readonly shape: readonly [number, number, number, number];
  /** A caption for each picture. */
  readonly captions: readonly string[];
}

const BACKGROUND = [0xf5, 0xf7, 0xf7] as const;
const INK = [0x12, 0x18, 0x1a] as const;
const MARGIN = 24;
const GAP = 12;
const CAPTION_SCALE = 2;
const CAPTION_GAP = 8;
const ROW_GAP = 20;
/** About as wide a picture becomes, in whole multiples of its pixels. */
const TILE = 140;

/** Up to five pictures in one row, then 5, 8 or 10 columns. */
export function columnsFor(count: number): number {
  if (count <= 5) return count;
  return count <= 10 ? 5 : count <= 40 ? 8 : 10;
}

export function drawSheet({ samples, shape, captions }: Sheet): Raster {
  const [count, channels, height, width] = shape;
  if (channels !== 1 && channels !== 3) throw new Error(`a sheet needs pictures of 1 or 3 channels, found ${channels}`);
  const scale = Math.max(1, Math.round(TILE / width));
  const columns = columnsFor(count);
  const rows = Math.ceil(count / columns);
  const captionWidth = Math.max(...captions.map(textWidth)) * CAPTION_SCALE;
  const cellWidth = Math.max(width * scale, captionWidth);
  const cellHeight = height * scale + CAPTION_GAP + GLYPH_HEIGHT * CAPTION_SCALE;
  const sheetWidth = 2 * MARGIN + columns * cellWidth + (columns - 1) * GAP;
  const sheetHeight = 2 * MARGIN + rows * cellHeight + (rows - 1) * ROW_GAP;
  const pixels = new Uint8Array(sheetWidth * sheetHeight * 3);
  for (let i = 0; i < pixels.length; i++) pixels[i] = BACKGROUND[i % 3]!;

  const bytes = imageBytes(samples);
  const plot = (x: number, y: number, colour: readonly number[]) => pixels.set(colour, (y * sheetWidth + x) * 3);
  for (let i = 0; i < count; i++) {
    const left = MARGIN + (i % columns) * (cellWidth + GAP);
    const top = MARGIN + Math.floor(i / columns) * (cellHeight + ROW_GAP);
    for (let y = 0; y < height * scale; y++) {
      for (let x = 0; x < width * scale; x++) {
        const at = Math.floor(y / scale) * width + Math.floor(x / scale);
        const channel = (c: number) => bytes[(i * channels + c) * height * width + at]!;
        const last = channels - 1;
        plot(left + x, top + y, [channel(0), channel(Math.min(1, last)), channel(last)]);
      }
    }
    const base = top + height * scale + CAPTION_GAP;
    drawText(captions[i] ?? '', (x, y) => {
      for (let dy = 0; dy < CAPTION_SCALE; dy++) {
        for (let dx = 0; dx < CAPTION_SCALE; dx++) {
          plot(left + x * CAPTION_SCALE + dx, base + y * CAPTION_SCALE + dy, INK);
        }
      }
    });
  }
  return { width: sheetWidth, height: sheetHeight, pixels };
}
