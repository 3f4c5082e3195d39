/**
 * @file Inputs and parameters, made from their names, so that every contestant and the reference compute the same thing.
 *
 * Values are kept once made: what is timed as a first call is then the contestant's own work.
 */
const made = new Map<string, Float32Array>();

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

function hash(text: string): number {
  let h = 2166136261;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 16777619);
  return h >>> 0;
}

/** Uniform in centre ± spread, by xorshift from the hash of a name. Not to be written to. */
export function uniform(name: string, count: number, spread = 1, centre = 0): Float32Array {
  const key = `${name} ${count}`;
  let values = made.get(key);
  if (!values) {
    values = new Float32Array(count);
    let s = hash(name) || 1;
    for (let i = 0; i < count; i++) {
      s ^= s << 13;
      s ^= s >>> 17;
      s ^= s << 5;
      values[i] = (((s >>> 0) / 2 ** 32) * 2 - 1) * spread + centre;
    }
    made.set(key, values);
  }
  return values;
}

/** Of a network's parameter: matrices keep the variance of what they multiply, norms stay near one. */
export function parameterValues(name: string, shape: readonly number[]): Float32Array {
  const count = product(shape);
  if (name.endsWith('.bias') || name.endsWith('positional_embedding')) return uniform(name, count, 0.1);
  if (shape.length === 1) return uniform(name, count, 0.2, 1);
  return uniform(name, count, Math.sqrt(3 / product(shape.slice(1))));
}

/** Sines and cosines of a timestep, as ADM has them, for each image. */
export function timestepEmbedding(timestep: number, width: number, batch: number): Float32Array {
  const half = width / 2;
  const result = new Float32Array(batch * width);
  for (let n = 0; n < batch; n++) {
    for (let i = 0; i < half; i++) {
      const angle = timestep * Math.exp((-Math.log(10000) * i) / half);
      result[n * width + i] = Math.cos(angle);
      result[n * width + half + i] = Math.sin(angle);
    }
  }
  return result;
}
