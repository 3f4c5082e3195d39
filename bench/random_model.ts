/** @file A model of random weights, which are made when they are asked for: for timing what nobody has a file of. */
import { type ModelConfig, modelParameters } from '../src/checkpoints/config.ts';
import { type Model, openModel } from '../src/checkpoints/model.ts';
import type { Parameter } from '../src/layers/builder.ts';
import type { Runtime } from '../src/runtime/device.ts';
import { numbers } from './numbers.ts';

/** Of a size by which activations stay near 1: matrices by their fan-in, vectors around what training starts from. */
function valuesOf({ name, shape }: Parameter, seed: number): Float32Array {
  const count = shape.reduce((a, b) => a * b, 1);
  if (shape.length > 1) return numbers(count, seed, Math.sqrt((3 * shape[0]!) / count));
  const values = numbers(count, seed, 0.2);
  return name.endsWith('weight') ? values.map((v) => 1 + v) : values;
}

export function randomModel(runtime: Runtime, config: ModelConfig): Model {
  const parameters = modelParameters(config);
  const seeds = new Map(parameters.map((parameter, i) => [parameter.name, { parameter, seed: 100 + i }]));
  const read = (name: string) => {
    const { parameter, seed } = seeds.get(name)!;
    return new Uint8Array(valuesOf(parameter, seed).buffer);
  };
  const source = {
    tensors: new Map(parameters.map(({ name, shape }) => [name, { dtype: 'F32' as const, shape }])),
    metadata: new Map<string, string>(),
    read: async (name: string) => read(name),
    readInto: async (name: string, target: Uint8Array) => target.set(read(name)),
  };
  return openModel(runtime, source, config);
}
