import { describe, expect, test } from 'vitest';
import attentionForward from '../../shaders/attention/forward.wgsl';
import convForward from '../../shaders/conv2d/forward.wgsl';
import linearForward from '../../shaders/linear/forward.wgsl';
import { type BoundCall, runOnce } from '../../src/runtime/pipelines.ts';
import { kernelCall, type Shader } from '../../src/runtime/shader.ts';
import { evaluate, expandTiles, setTiles } from '../../src/runtime/tiles.ts';
import { testRuntime, values } from '../device.ts';

describe('evaluate', () => {
  const constants = new Map([['A', 6]]);
  test.each([
    ['3u', 3],
    ['(A - 1u) * 2u + 3u', 13],
    ['A / 4u % 2u', 1],
    ['2 + 3 * 4', 14],
    ['B', null],
    ['1u - 2u', null],
    ['A[0]', null],
    ['1u +', null],
    ['4u / 0u', null],
  ])('%s', (text, value) => expect(evaluate(text, constants)).toBe(value));
});

describe('expandTiles', () => {
  const source = `
const N: u32 = 2u;
fn main() {
  var a: array<f32, N * 2u>;
  for (var i = 0u; i < N; i++) {
    for (var j = 0u; j < 2u; j++) {
      a[i * 2u + j] = f32(i) + x.i;
    }
  }
  for (var k = 0u; k < N; k++) {
    total += f32(k);
  }
  total += a[3] + a[N - 1u];
}`;

  test('a loop that governs registers is repeated, others stay, members of that name are left alone', () => {
    const text = expandTiles(source, {});
    expect(text).toContain('var a_0: f32; var a_1: f32; var a_2: f32; var a_3: f32;');
    for (const line of ['a_0 = f32(0u) + x.i', 'a_3 = f32(1u) + x.i', 'total += a_3 + a_1'])
      expect(text).toContain(line);
    expect(text).toContain('for (var k = 0u; k < N; k++)');
    expect(text).not.toMatch(/\ba\b|var i\b|var j\b/);
  });

  test('a tile size is set before anything is unrolled', () => {
    expect(expandTiles(source, { N: 3 })).toContain('a_5 = f32(2u)');
    expect(() => expandTiles(source, { M: 3 })).toThrow('no tile constant M');
  });

  test('a loop that adds 1u stays one of at most four turns, and moves registers down', () => {
    const rolled = (n: number) =>
      expandTiles(
        `const N: u32 = ${n}u;
fn main() {
  var a: array<f32, N * 2u>;
  for (var i = 0u; i < N; i += 1u) {
    for (var j = 0u; j < 2u; j++) {
      y[i] = a[j * N + i];
    }
  }
}`,
        {},
      ).replace(/\s+/g, ' ');
    expect(rolled(4)).toContain('for (var i = 0u; i < 4u; i += 1u) { { { y[i] = a_0; }{ y[i] = a_4; } }');
    expect(rolled(4)).toContain('a_4 = a_5; a_0 = a_1; a_5 = a_6; a_1 = a_2; a_6 = a_7; a_2 = a_3; }');
    expect(rolled(8)).toContain('i < 8u; i += 2u) { { { y[i] = a_0; }{ y[i] = a_8; } }{ { y[(i + 1u)] = a_1; }');
    expect(rolled(8)).toContain('a_8 = a_10; a_0 = a_2; a_9 = a_11;');
    expect(rolled(3)).not.toContain('for');
    expect(() => expandTiles(source.replace('2u;', '4u;').replace('i++', 'i += 1u'), {})).toThrow('a is used after');
  });

  test('what cannot be resolved is refused', () => {
    expect(() => expandTiles(`${source.slice(0, -1)} total += a[runtime]; }`, {})).toThrow('a[runtime]');
    expect(() => expandTiles(`${source.slice(0, -1)} use(&a); }`, {})).toThrow('as a whole');
    expect(() => expandTiles(`${source.slice(0, -1)} total += a[4]; }`, {})).toThrow('a[4]');
    expect(() => expandTiles(source.replace('var j', 'var i').replace('j < 2u; j++', 'i < 2u; i++'), {})).toThrow(
      'twice',
    );
  });
});

describe('the readable form and the unrolled form compute the same', async () => {
  const runtime = await testRuntime();

  /** The same call, with the loops and arrays left as they stand in the file. */
  const readable = (shader: Shader, tiles: Record<string, number>): Shader => {
    // A name that the tile pass does not recognise as an array keeps it from unrolling.
    const source = setTiles(shader.source, tiles).replace(
      /\bvar (\w+)\s*:\s*array<([^;]+)>;/g,
      'var $1 = array<$2>();',
    );
    return { ...shader, name: `${shader.name} readable`, source };
  };

  async function both(
    shader: Shader,
    tiles: Record<string, number>,
    call: (s: Shader) => BoundCall['call'],
    inputs: number[],
    output: string,
  ) {
    const { device, buffers } = runtime;
    const results: Float32Array[] = [];
    for (const used of [shader, readable(shader, tiles)]) {
      const made = call(used);
      const bindings: Record<string, { buffer: GPUBuffer; offset: number; size: number }> = {};
      shader.bindings.forEach(({ name }, i) => {
        const size = Math.ceil(inputs[i]! / 4) * 16;
        const buffer = buffers.create(
          name,
          size,
          GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
        );
        if (name !== output) device.queue.writeBuffer(buffer, 0, values(size / 4, i + 1) as Float32Array<ArrayBuffer>);
        bindings[name] = { buffer, offset: 0, size };
      });
      await runOnce(runtime, [{ call: { ...made, tiles: used === shader ? tiles : {} }, bindings }]);
      const { buffer, size } = bindings[output]!;
      const staging = buffers.create('staging', size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      results.push(new Float32Array(staging.getMappedRange().slice(0)));
    }
    const [unrolled, loops] = results as [Float32Array, Float32Array];
    expect(unrolled.some((value) => value !== 0)).toBe(true);
    unrolled.forEach((value, i) => {
      expect(value).toBeCloseTo(loops[i]!, 5);
    });
  }

  test('conv2d/forward', async () => {
    const [n, h, w, ci, co] = [2, 5, 7, 8, 12];
    const tiles = { PIXELS: 4, QUADS: 2, KERNEL: 3, STRIDE: 1 };
    await both(
      convForward as unknown as Shader,
      tiles,
      (shader) =>
        kernelCall(shader as unknown as typeof convForward, {
          bind: { x: null, weights: null, bias: null, residual: null, y: null },
          sizes: {
            HEIGHT: h,
            WIDTH: w,
            IN_QUADS: ci / 4,
            OUT_ROWS: n * h,
            OUT_HEIGHT: h,
            OUT_WIDTH: w,
            OUT_QUADS: co / 4,
            BIAS: 1,
            RESIDUAL: 1,
            X_SHIFT: 0,
            RESIDUAL_SHIFT: 0,
          },
          grid: [4, 1, 1],
          cost: { flops: 0, bytes: 0 },
        }),
      [n * h * w * ci, 9 * ci * co, co, n * h * w * co, n * h * w * co],
      'y',
    );
  });

  test('linear/forward', async () => {
    const [rows, ins, out] = [11, 8, 20];
    await both(
      linearForward as unknown as Shader,
      { RUN: 4, QUADS: 2 },
      (shader) =>
        kernelCall(shader as unknown as typeof linearForward, {
          bind: { x: null, weights: null, bias: null, residual: null, y: null },
          sizes: { ROWS: rows, IN_QUADS: ins / 4, OUT_QUADS: out / 4, BIAS: 1, RESIDUAL: 0 },
          grid: [1, 1, 1],
          cost: { flops: 0, bytes: 0 },
        }),
      [rows * ins, ins * out, out, rows * out, rows * out],
      'y',
    );
  });

  test('attention/forward', async () => {
    const [n, heads, headQuads, tokens] = [1, 2, 2, 9];
    await both(
      attentionForward as unknown as Shader,
      { QUERY_RUN: 2, KEYS: 4, QUADS: 2 },
      (shader) =>
        kernelCall(shader as unknown as typeof attentionForward, {
          bind: { qkv: null, out: null, lse: null },
          sizes: { IMAGES: n, TOKENS: tokens, QUERIES: tokens, HEADS: heads, HEAD_QUADS: headQuads, SCALE: 0.35 },
          grid: [1, n * heads, 1],
          cost: { flops: 0, bytes: 0 },
        }),
      [n * tokens * heads * 3 * headQuads * 4, n * tokens * heads * headQuads * 4, n * heads * tokens],
      'out',
    );
  });
});
