/**
 * @file Pictures that a command is given: PNG or safetensors, fitted to what a model takes.
 */
import { toNumbers } from '../checkpoints/safetensors.ts';
import { CheckpointError, OptionError } from '../runtime/errors.ts';
import { readInput, readTensors } from './files.ts';
import { decodePng, isPng, type Raster } from './png.ts';

/** What the pictures should become. */
export interface PictureShape {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

export interface Pictures {
  /** [count, C, H, W] in [-1, 1]. */
  readonly data: Float32Array;
  readonly count: number;
  readonly labels: readonly number[] | null;
}

/**
 * A PNG picture, or a safetensors file with a tensor `samples` [N, C, H, W] as `generate --raw` writes it. A PNG of
 * another size is cropped at its centre to the model's shape and averaged down, as guided-diffusion reads its data sets;
 * colours become grey where the model knows one channel.
 *
 * @throws OptionError naming the file and what is wrong with it
 */
export function readPictures(path: string, shape: PictureShape): Pictures {
  const bytes = readInput(path, 'picture');
  if (isPng(bytes)) return { data: fitted(decodeNamed(path, bytes), shape), count: 1, labels: null };
  const { tensors } = readTensors(path, 'picture');
  const tensor = tensors.get('samples');
  if (!tensor) {
    throw new OptionError(`${path} should be a PNG file, or a safetensors file with a tensor "samples" [N, C, H, W]`);
  }
  const { channels, height, width } = shape;
  const [count = 0] = tensor.shape;
  if (tensor.shape.join() !== [count, channels, height, width].join() || count < 1) {
    throw new OptionError(
      `samples in ${path} should be [N, ${channels}, ${height}, ${width}], found [${tensor.shape.join(', ')}]`,
    );
  }
  const labels = tensors.get('labels');
  return {
    data: Float32Array.from(toNumbers(tensor)),
    count,
    labels: labels?.shape.join() === String(count) ? Array.from(toNumbers(labels)) : null,
  };
}

/** 1 where the mask is white (to be made), 0 where it is black (kept): [C, H, W]. */
export function readMask(path: string, shape: PictureShape): Float32Array {
  const bytes = readInput(path, 'mask');
  if (!isPng(bytes))
    throw new OptionError(`the mask ${path} should be a PNG file: white where the picture is made anew`);
  const { height, width } = shape;
  const grey = fitted(decodeNamed(path, bytes), { channels: 1, height, width }).map((value) => (value > 0 ? 1 : 0));
  if (!grey.includes(1)) throw new OptionError(`the mask ${path} is black everywhere, so nothing would be made`);
  const mask = new Float32Array(shape.channels * grey.length);
  for (let c = 0; c < shape.channels; c++) mask.set(grey, c * grey.length);
  return mask;
}

function decodeNamed(path: string, bytes: Buffer): Raster {
  try {
    return decodePng(bytes);
  } catch (error) {
    if (error instanceof CheckpointError) throw new CheckpointError(`${path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Centre crop to the target's proportions, then the mean over the area of each new pixel. [C, H, W] in [-1, 1]. */
export function fitted(raster: Raster, { channels, height, width }: PictureShape): Float32Array {
  const scale = Math.min(raster.width / width, raster.height / height);
  const left = (raster.width - width * scale) / 2;
  const top = (raster.height - height * scale) / 2;
  const data = new Float32Array(channels * height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const colour = areaMean(raster, left + x * scale, top + y * scale, scale);
      const grey = 0.299 * colour[0]! + 0.587 * colour[1]! + 0.114 * colour[2]!;
      for (let c = 0; c < channels; c++) {
        data[(c * height + y) * width + x] = (channels === 1 ? grey : colour[c]!) / 127.5 - 1;
      }
    }
  }
  return data;
}

/** Mean colour of the square of `side` at (left, top), pixels counted by the part of them that lies in it. */
function areaMean({ width, height, pixels }: Raster, left: number, top: number, side: number): number[] {
  const sum = [0, 0, 0];
  let weight = 0;
  for (let y = Math.floor(top); y < Math.min(height, Math.ceil(top + side)); y++) {
    for (let x = Math.floor(left); x < Math.min(width, Math.ceil(left + side)); x++) {
      const part =
        (Math.min(x + 1, left + side) - Math.max(x, left)) * (Math.min(y + 1, top + side) - Math.max(y, top));
      if (part <= 0) continue;
      weight += part;
      for (let c = 0; c < 3; c++) sum[c]! += part * pixels[(y * width + x) * 3 + c]!;
    }
  }
  return sum.map((value) => value / weight);
}
