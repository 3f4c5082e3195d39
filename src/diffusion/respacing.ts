/**
 * @file Respacing: a shorter process made of some timesteps of a longer one (Nichol & Dhariwal 2021, section 4).
 */
import { OptionError } from '../runtime/errors.ts';

/** Rounds to the nearest integer, halves to the even one, as Python does. */
export function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * The timesteps that are kept, in ascending order.
 *
 * @param respacing "ddimN": every k-th timestep from 0 on, for the first k that gives exactly N. "a,b,c": the process is
 *   cut into as many sections of equal length as there are numbers, and each keeps that many evenly spaced timesteps.
 *   "quadN": N timesteps that grow as squares from 0 to the last, dense where there is little noise (Song et al. 2020,
 *   appendix D.2); not in the original. "": all of them.
 * @throws OptionError if no such selection exists
 */
export function spaceTimesteps(steps: number, respacing: string): number[] {
  const text = respacing.trim();
  if (text === '') return Array.from({ length: steps }, (_, i) => i);
  const ddim = /^ddim(\d+)$/.exec(text);
  if (ddim) {
    const wanted = Number(ddim[1]);
    for (let stride = 1; stride < steps; stride++) {
      if (Math.ceil(steps / stride) !== wanted) continue;
      return Array.from({ length: wanted }, (_, i) => i * stride);
    }
    throw new OptionError(`respacing "${text}": no whole stride takes exactly ${wanted} of ${steps} timesteps`);
  }
  const quad = /^quad(\d+)$/.exec(text);
  if (quad) {
    const wanted = Number(quad[1]);
    const spread =
      wanted < 2 ? [steps - 1] : Array.from({ length: wanted }, (_, i) => (steps - 1) * (i / (wanted - 1)) ** 2);
    const kept = new Set(spread.map(roundHalfToEven));
    if (wanted < 1 || kept.size !== wanted) {
      throw new OptionError(
        `respacing "${text}": ${steps} timesteps hold no ${wanted} different ones that grow as squares`,
      );
    }
    return [...kept];
  }
  if (!/^\d+(\s*,\s*\d+)*$/.test(text)) {
    throw new OptionError(`respacing should be "N", "a,b,c", "ddimN" or "quadN", found "${respacing}"`);
  }
  const counts = text.split(',').map(Number);
  const size = Math.floor(steps / counts.length);
  const extra = steps % counts.length;
  const kept = new Set<number>();
  let start = 0;
  counts.forEach((count, i) => {
    const length = size + (i < extra ? 1 : 0);
    if (length < count) {
      throw new OptionError(`respacing "${text}": a section of ${length} timesteps cannot give ${count}`);
    }
    // The stride is added up, not multiplied: the original's rounding depends on it.
    const stride = count <= 1 ? 1 : (length - 1) / (count - 1);
    let at = 0;
    for (let k = 0; k < count; k++, at += stride) kept.add(start + roundHalfToEven(at));
    start += length;
  });
  if (kept.size === 0) throw new OptionError(`respacing "${text}" keeps no timestep`);
  return [...kept].sort((a, b) => a - b);
}
