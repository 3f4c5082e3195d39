/**
 * @file What must not compile. The checks are the `@ts-expect-error` lines: `npm run lint` fails where one of them is no
 * error. Nothing here needs to run.
 */
import { expect, test } from 'vitest';
import addShader from '../../shaders/elementwise/add.wgsl';
import applyShader from '../../shaders/group_norm/apply.wgsl';
import linearForward from '../../shaders/linear/forward.wgsl';
import { kernelCall } from '../../src/runtime/shader.ts';

const grid = [1, 1, 1] as const;
const cost = { flops: 0, bytes: 0 };
const nothing = { a: null, b: null, y: null };

test('a call with everything it needs compiles, and keeps what it was given', () => {
  const call = kernelCall(addShader, { bind: nothing, sizes: { COUNT: 4 }, grid, cost });
  expect(call.sizes).toEqual({ COUNT: 4 });
  expect(call.shader.name).toBe('elementwise/add');
});

test('a size that is no number is refused', () => {
  expect(() => kernelCall(addShader, { bind: nothing, sizes: { COUNT: Number.NaN }, grid, cost })).toThrow('COUNT');
  expect(() => kernelCall(addShader, { bind: nothing, sizes: { COUNT: 1.5 }, grid, cost })).toThrow('COUNT');
});

function mustNotCompile(): void {
  // @ts-expect-error a binding is missing
  kernelCall(addShader, { bind: { a: null, b: null }, sizes: { COUNT: 4 }, grid, cost });
  // @ts-expect-error a binding is misspelt
  kernelCall(addShader, { bind: { a: null, b: null, z: null, y: null }, sizes: { COUNT: 4 }, grid, cost });
  // @ts-expect-error a size is missing
  kernelCall(addShader, { bind: nothing, sizes: {}, grid, cost });
  // @ts-expect-error all sizes are missing
  kernelCall(addShader, { bind: nothing, grid, cost });
  // @ts-expect-error a size is misspelt
  kernelCall(addShader, { bind: nothing, sizes: { COUNT: 4, COUNTS: 4 }, grid, cost });
  const bind = { x: null, coefficients: null, y: null };
  const sizes = { IMAGES: 1, PIXELS: 1, CHANNEL_QUADS: 1 };
  // @ts-expect-error a switch has the wrong type
  kernelCall(applyShader, { bind, sizes, switches: { SILU: 1 }, grid, cost });
  // @ts-expect-error there is no such switch
  kernelCall(applyShader, { bind, sizes, switches: { RELU: true }, grid, cost });
  const product = { x: null, weights: null, bias: null, residual: null, y: null };
  const productSizes = { ROWS: 1, IN_QUADS: 1, OUT_QUADS: 1, BIAS: 0, RESIDUAL: 0 };
  // @ts-expect-error there is no such tile
  kernelCall(linearForward, { bind: product, sizes: productSizes, tiles: { PIXELS: 4 }, grid, cost });
}

void mustNotCompile; // never called: its lines are for the type checker
