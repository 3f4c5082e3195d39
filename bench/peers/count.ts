/**
 * @file Operators that compute nothing: they count multiply-adds and list parameters.
 */
import type { NetworkCase } from './cases.ts';
import { forward } from './networks.ts';
import type { Operators } from './operators.ts';

export interface Work {
  /** Of a forward pass. */
  readonly multiplyAdds: number;
  readonly parameters: readonly { readonly name: string; readonly shape: readonly number[] }[];
}

export function countWork(c: NetworkCase): Work {
  const parameters = new Map<string, readonly number[]>();
  let multiplyAdds = 0;
  const nothing = () => null;
  const count = (products: number) => {
    multiplyAdds += c.batch * products;
    return null;
  };
  const operators: Operators<null> = {
    parameter(name, shape) {
      if (parameters.has(name)) throw new Error(`two parameters ${name}`);
      parameters.set(name, shape);
      return null;
    },
    conv: (_x, _weight, _bias, size) => count(size.h * size.w * size.in * size.out * size.kernel ** 2),
    linear: (_x, _weight, _bias, size) => count(size.in * size.out),
    attention: (_qkv, { c: channels, h, w }) => count(2 * (h * w) ** 2 * channels),
    attentionPool: (_x, { c: channels, h, w }) => {
      const tokens = h * w + 1;
      const classes = c.op === 'unet' ? 0 : c.classes;
      return count(3 * channels ** 2 * tokens + 2 * tokens ** 2 * channels + channels * classes);
    },
    groupNorm: nothing,
    silu: nothing,
    scaleShift: nothing,
    add: nothing,
    concatenate: nothing,
    up: nothing,
    down: nothing,
  };
  forward(operators, c, null, null);
  return { multiplyAdds, parameters: [...parameters].map(([name, shape]) => ({ name, shape })) };
}
