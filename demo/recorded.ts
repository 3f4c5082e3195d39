/** @file A run that was recorded with the shipped models, for visitors whose browser has no WebGPU. */

import { History, type ImageShape } from './history.ts';
import recordUrl from './recorded/run.json?url';
import spriteUrl from './recorded/run.png?url';
import type { Settings } from './settings.ts';

/** Beside a sprite of the predictions of x_0: a column an image, a row a frame. */
export interface Recording {
  readonly settings: Pick<Settings, 'guidance' | 'scale' | 'sampler' | 'steps' | 'eta' | 'count' | 'seed'>;
  readonly adapter: string;
  readonly shape: ImageShape;
  readonly labels: readonly number[];
  /** Steps whose images are in the sprite. */
  readonly frames: readonly number[];
  readonly timesteps: readonly number[];
  /** A list a step, for each image all classes. */
  readonly logProbs: readonly (readonly number[])[];
  readonly gradientNorms: readonly (readonly number[])[];
  readonly scoreNorms: readonly (readonly number[])[];
}

/** Rows and columns of the sprite as NCHW bytes. Recorded images are grey. */
export function historyOf(recording: Recording, sprite: { data: ArrayLike<number>; width: number }): History {
  const { shape, labels, frames, timesteps, logProbs, gradientNorms, scoreNorms } = recording;
  const { n, h, w } = shape;
  const history = new History(shape, labels, timesteps.length);
  frames.forEach((index, row) => {
    const x0 = new Uint8Array(n * h * w);
    for (let i = 0; i < n; i++) {
      for (let y = 0; y < h; y++) {
        for (let x = 0; x < w; x++) {
          x0[(i * h + y) * w + x] = sprite.data[4 * ((row * h + y) * sprite.width + i * w + x)]!;
        }
      }
    }
    history.keep({ index, x0, xt: x0, heat: null });
  });
  timesteps.forEach((t, index) => {
    history.timesteps[index] = t;
    history.logProbs[index] = Float32Array.from(logProbs[index]!);
    history.gradientNorms[index] = Float64Array.from(gradientNorms[index]!);
    history.scoreNorms[index] = Float64Array.from(scoreNorms[index]!);
  });
  return history;
}

export async function loadRecording(): Promise<{ recording: Recording; history: History }> {
  const [recording, bitmap] = await Promise.all([
    fetch(recordUrl).then((response) => response.json() as Promise<Recording>),
    fetch(spriteUrl)
      .then((response) => response.blob())
      .then((blob) => createImageBitmap(blob)),
  ]);
  const canvas = document.createElement('canvas');
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext('2d')!;
  context.drawImage(bitmap, 0, 0);
  return { recording, history: historyOf(recording, context.getImageData(0, 0, bitmap.width, bitmap.height)) };
}
