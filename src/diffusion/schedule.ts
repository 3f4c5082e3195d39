/**
 * @file Noise schedules: the betas of the forward process, in float64.
 */
import { cosine } from './cosine.ts';

export type NoiseSchedule = 'linear' | 'cosine';

/**
 * beta_t for t = 0 ... steps - 1.
 *
 * linear: Ho et al. 2020, scaled by 1000 / steps. cosine: Nichol & Dhariwal 2021, equation 17, betas at most 0.999.
 */
export function betaSchedule(schedule: NoiseSchedule, steps: number): Float64Array {
  if (!Number.isInteger(steps) || steps < 1) throw new RangeError(`steps must be a positive integer, found ${steps}`);
  const betas = new Float64Array(steps);
  if (schedule === 'linear') {
    const scale = 1000 / steps;
    const start = scale * 0.0001;
    const end = scale * 0.02;
    const stride = steps > 1 ? (end - start) / (steps - 1) : 0;
    for (let i = 0; i < steps; i++) betas[i] = i * stride + start;
    if (steps > 1) betas[steps - 1] = end;
    return betas;
  }
  const alphaBar = (t: number) => {
    const root = cosine((((t + 0.008) / 1.008) * Math.PI) / 2);
    return root * root;
  };
  for (let i = 0; i < steps; i++) {
    betas[i] = Math.min(1 - alphaBar((i + 1) / steps) / alphaBar(i / steps), 0.999);
  }
  return betas;
}
