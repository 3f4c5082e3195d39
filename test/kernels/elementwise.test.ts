import { describe, expect, test } from 'vitest';
import * as attentionBlock from '../../src/layers/attention_block.ts';
import type { Builder, Parameter } from '../../src/layers/builder.ts';
import { select } from '../../src/layers/classifier.ts';
import { add, concat, concatPadded, relu, repeat, silu } from '../../src/layers/elementwise.ts';
import { addLabel, timestepEmbedding } from '../../src/layers/embedding.ts';
import * as resBlock from '../../src/layers/res_block.ts';
import { bilinear, downsample, meanPixels, upsample } from '../../src/layers/resample.ts';
import type { Graph } from '../../src/runtime/graph.ts';
import type { Activation, Shape } from '../../src/runtime/resources.ts';
import { checkpointOf, expectClose, inner, noWeights, run, size, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const runtime = await testRuntime();

type Unary = (graph: Graph, x: Activation) => Activation;

/** Runs an operation without parameters, forward and back. */
async function unary(operation: Unary, shape: Shape, x: Float32Array, upstream: (y: Shape) => Float32Array) {
  let dy = new Float32Array();
  const found = await run(runtime, noWeights, (e) => {
    const input = e.input('x', shape, x);
    const y = operation(e.graph, input);
    dy = upstream(y.shape) as Float32Array<ArrayBuffer>;
    e.output('y', y);
    e.gradient('dx', y, dy, input);
  });
  return { y: found['y']!, dx: found['dx']!, dy };
}

describe('silu and relu', () => {
  const shape = { n: 3, c: 7, h: 2, w: 5 };
  const x = values(size(shape), 1, 20);

  test('silu', async () => {
    const { y, dx, dy } = await unary(silu, shape, x, (s) => values(size(s), 2));
    expectClose(y, [...x].map(reference.silu));
    expectClose(
      dx,
      [...x].map((value, i) => dy[i]! * reference.siluSlope(value)),
    );
  });

  test('silu stays finite far out', async () => {
    const far = Float32Array.from([-1000, -100, -88, 88, 1000]);
    const { y, dx } = await unary(silu, { n: 1, c: 5, h: 1, w: 1 }, far, () => new Float32Array(5).fill(1));
    expect([...y, ...dx].every(Number.isFinite)).toBe(true);
    expect([y[3], y[4]]).toEqual([88, 1000]);
    expect(Math.abs(y[0]!)).toBeLessThan(1e-30);
  });

  test('relu', async () => {
    const { y, dx, dy } = await unary(relu, shape, x, (s) => values(size(s), 2));
    expect([...y]).toEqual([...x].map((value) => Math.max(value, 0)));
    expect([...dx]).toEqual([...x].map((value, i) => (value > 0 ? dy[i]! : 0)));
  });
});

describe('resampling', () => {
  const cases: [string, Unary, Shape][] = [
    ['upsample', upsample, { n: 2, c: 5, h: 3, w: 7 }],
    ['upsample one pixel', upsample, { n: 1, c: 4, h: 1, w: 1 }],
    ['downsample', downsample, { n: 2, c: 4, h: 4, w: 6 }],
    ['downsample odd sizes', downsample, { n: 3, c: 3, h: 7, w: 5 }],
    ['mean of pixels', meanPixels, { n: 2, c: 6, h: 5, w: 3 }],
  ];
  test.each(cases)('%s: reference and adjoint identity', async (name, operation, shape) => {
    const x = values(size(shape), 1);
    const { y, dx, dy } = await unary(operation, shape, x, (s) => values(size(s), 2));
    const expected: number[] = [];
    const at = (n: number, c: number, row: number, column: number) =>
      x[((n * shape.c + c) * shape.h + row) * shape.w + column]!;
    const [h, w] = name.startsWith('up')
      ? [shape.h * 2, shape.w * 2]
      : name.startsWith('down')
        ? [Math.floor(shape.h / 2), Math.floor(shape.w / 2)]
        : [1, 1];
    for (let n = 0; n < shape.n; n++)
      for (let c = 0; c < shape.c; c++)
        for (let row = 0; row < h; row++)
          for (let column = 0; column < w; column++) {
            if (name.startsWith('up')) expected.push(at(n, c, row >> 1, column >> 1));
            else {
              const [rows, columns] = name.startsWith('down') ? [2, 2] : [shape.h, shape.w];
              let sum = 0;
              for (let a = 0; a < rows; a++)
                for (let b = 0; b < columns; b++) sum += at(n, c, row * rows + a, column * columns + b);
              expected.push(sum / (rows * columns));
            }
          }
    expectClose(y, expected);
    const scale = Math.sqrt(inner(dy, dy) * inner(y, y));
    expect(Math.abs(inner(dy, y) - inner(dx, x)) / scale).toBeLessThan(1e-6);
  });
});

describe('bilinear', () => {
  /** Half-pixel centres, the border repeated. */
  function sample(x: Float32Array, plane: number, { h, w }: Shape, height: number, width: number): number[] {
    const taps = (i: number, from: number, to: number) => {
      const place = Math.max(0, ((i + 0.5) * from) / to - 0.5);
      const low = Math.min(from - 1, Math.floor(place));
      return { low, high: Math.min(from - 1, low + 1), part: place - low };
    };
    const values: number[] = [];
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++) {
        const [r, c] = [taps(row, h, height), taps(column, w, width)];
        const at = (a: number, b: number) => x[(plane * h + a) * w + b]!;
        const upper = at(r.low, c.low) * (1 - c.part) + at(r.low, c.high) * c.part;
        const lower = at(r.high, c.low) * (1 - c.part) + at(r.high, c.high) * c.part;
        values.push(upper * (1 - r.part) + lower * r.part);
      }
    return values;
  }

  test.each([
    [{ n: 2, c: 3, h: 3, w: 5 }, 6, 10],
    [{ n: 1, c: 5, h: 4, w: 7 }, 11, 9],
    [{ n: 3, c: 4, h: 1, w: 2 }, 5, 3],
    [{ n: 1, c: 1, h: 8, w: 8 }, 3, 5],
  ])('%j to %i x %i: reference and adjoint identity', async (shape, height, width) => {
    const x = values(size(shape), 1);
    const enlarge: Unary = (graph, input) => bilinear(graph, input, height, width);
    const { y, dx, dy } = await unary(enlarge, shape, x, (s) => values(size(s), 2));
    const planes = Array.from({ length: shape.n * shape.c }, (_, plane) => sample(x, plane, shape, height, width));
    expectClose(y, planes.flat());
    const norm = Math.sqrt(inner(dy, dy) * inner(y, y));
    expect(Math.abs(inner(dy, y) - inner(dx, x)) / norm).toBeLessThan(1e-6);
  });
});

describe('a residual scaled by 1 / sqrt(2)', () => {
  const shape = { n: 2, c: 32, h: 5, w: 3 };
  const x = values(size(shape), 1);
  const upstream = values(size(shape), 2);
  const weightsOf = (parameters: readonly Parameter[]) =>
    checkpointOf(
      Object.fromEntries(
        parameters.map(({ name, shape: s }, i) => [
          name,
          {
            shape: s,
            data: values(
              s.reduce((a, b) => a * b, 1),
              10 + i,
              0.2,
            ),
          },
        ]),
      ),
    );
  const compare = async (
    parameters: readonly Parameter[],
    build: (e: Builder, input: Activation, rescale: boolean) => Activation,
  ) => {
    const [plain, scaled] = await Promise.all(
      [false, true].map((rescale) =>
        run(runtime, weightsOf(parameters), (e) => {
          const input = e.input('x', shape, x);
          const y = build(e, input, rescale);
          e.output('y', y);
          e.gradient('dx', y, upstream, input);
        }),
      ),
    );
    for (const name of ['y', 'dx'])
      expectClose(
        scaled![name]!,
        Float64Array.from(plain![name]!, (value) => value / Math.SQRT2),
        1e-6,
      );
  };

  test('residual block', async () => {
    const spec = (rescale: boolean): resBlock.ResBlock => ({
      channels: 32,
      embedding: 8,
      out: 32,
      scaleShift: true,
      resample: null,
      convSkip: false,
      rescale,
    });
    await compare(resBlock.parameters(spec(false), 'block'), (e, input, rescale) => {
      const embedding = e.graph.constant('embedding', { n: 2, c: 8, h: 1, w: 1 }, 0.5);
      const projections = resBlock.projectEmbeddings(e, [{ spec: spec(rescale), name: 'block' }], embedding);
      return resBlock.forward(e, spec(rescale), 'block', input, projections);
    });
  });

  test('attention block', async () => {
    const spec = (rescale: boolean): attentionBlock.AttentionBlock => ({
      channels: 32,
      heads: 2,
      order: 'legacy',
      rescale,
    });
    await compare(attentionBlock.parameters(spec(false), 'block'), (e, input, rescale) =>
      attentionBlock.forward(e, spec(rescale), 'block', input),
    );
  });
});

describe('moving data', () => {
  test('concat puts channels one after another, and its gradient takes them apart', async () => {
    const [a, b, c] = [4, 8, 3].map((channels) => ({ n: 2, c: channels, h: 3, w: 2 }));
    const data = [values(size(a!), 1), values(size(b!), 2), values(size(c!), 3)];
    const upstream = values(2 * 15 * 6, 4);
    const found = await run(runtime, noWeights, (e) => {
      const parts = [a!, b!, c!].map((shape, i) => e.input(`part ${i}`, shape, data[i]!));
      const y = concat(e.graph, parts);
      e.output('y', y);
      parts.forEach((part, i) => {
        e.gradient(`d${i}`, y, upstream, part);
      });
    });
    const image = (n: number) =>
      data.flatMap((part) => [...part.subarray((n * part.length) / 2, ((n + 1) * part.length) / 2)]);
    expect([...found['y']!]).toEqual([...image(0), ...image(1)]);
    const slice = (from: number, to: number) =>
      [0, 1].flatMap((n) => [...upstream.subarray((n * 15 + from) * 6, (n * 15 + to) * 6)]);
    expect([...found['d0']!]).toEqual(slice(0, 4));
    expect([...found['d1']!]).toEqual(slice(4, 12));
    expect([...found['d2']!]).toEqual(slice(12, 15));
  });

  test('concat with padding tells where the channels went', async () => {
    const parts = [3, 5].map((c, i) => ({ shape: { n: 2, c, h: 2, w: 1 }, data: values(2 * c * 2, i + 1) }));
    let map: Int32Array | readonly number[] | null = null;
    const { y } = await run(runtime, noWeights, (e) => {
      const made = concatPadded(
        e.graph,
        parts.map(({ shape, data }, i) => e.input(`part ${i}`, shape, data)),
      );
      map = made.map;
      e.output('y', made.tensor);
    });
    expect([...map!]).toEqual([0, 1, 2, -1, 3, 4, 5, 6, 7, -1, -1, -1]);
    const channel = (n: number, c: number) => {
      const [part, own] = c < 3 ? [parts[0]!, c] : [parts[1]!, c - 3];
      return [...part.data.subarray((n * part.shape.c + own) * 2, (n * part.shape.c + own) * 2 + 2)];
    };
    const expected = [0, 1].flatMap((n) => [...map!].flatMap((c) => (c < 0 ? [0, 0] : channel(n, c))));
    expect([...y!]).toEqual(expected);
  });

  test('concat of a part that would not end on a multiple of 4 is refused', async () => {
    await expect(
      run(runtime, noWeights, (e) => {
        const part = e.input('a', { n: 1, c: 3, h: 1, w: 1 }, values(3, 1));
        e.output('y', concat(e.graph, [part, part]));
      }),
    ).rejects.toThrow('cannot concatenate');
  });

  test('repeat gives the batch again, add adds, and a tensor read twice gets both gradients', async () => {
    const shape = { n: 2, c: 3, h: 2, w: 2 };
    const x = values(size(shape), 1);
    const upstream = values(size(shape), 2);
    const found = await run(runtime, noWeights, (e) => {
      const input = e.input('x', shape, x);
      e.output('twice', repeat(e.graph, input, 2));
      const sum = add(e.graph, silu(e.graph, input), relu(e.graph, input));
      e.output('sum', sum);
      e.gradient('dx', sum, upstream, input);
    });
    expect([...found['twice']!]).toEqual([...x, ...x]);
    expectClose(
      found['sum']!,
      [...x].map((v) => reference.silu(v) + Math.max(v, 0)),
    );
    expectClose(
      found['dx']!,
      [...x].map((v, i) => upstream[i]! * (reference.siluSlope(v) + (v > 0 ? 1 : 0))),
    );
  });
});

describe('embeddings', () => {
  test('each image gets the row of its label', async () => {
    const table = values(5 * 6, 1);
    const x = values(3 * 6, 2);
    const labels = [4, 0, 2];
    const found = await run(runtime, checkpointOf({ table: { shape: [5, 6], data: table } }), (e) => {
      const input = e.input('x', { n: 3, h: 1, w: 1, c: 6 }, x);
      e.output('y', addLabel(e, 'table', input, e.words('labels', Uint32Array.from(labels))));
    });
    const expected = labels.flatMap((label, n) =>
      Array.from({ length: 6 }, (_, c) => Math.fround(x[n * 6 + c]! + table[label * 6 + c]!)),
    );
    expect([...found['y']!]).toEqual(expected);
  });

  test('timesteps: cosines, then sines, then a zero column if the width is odd', () => {
    const embedding = timestepEmbedding([0, 999.5], 5);
    expect([...embedding.subarray(0, 5)]).toEqual([1, 1, 0, 0, 0]);
    const angle = 999.5 * Math.exp(-Math.log(10000) / 2);
    expect([...embedding.subarray(5)]).toEqual(
      [Math.cos(999.5), Math.cos(angle), Math.sin(999.5), Math.sin(angle), 0].map(Math.fround),
    );
  });
});

describe('log_softmax', () => {
  test.each([
    [1, 1, 1],
    [2, 5, 30],
    [3, 130, 1],
  ])('N=%i K=%i, logits up to %i', async (n, k, scale) => {
    const logits = values(n * k, 1, scale);
    const labels = Array.from({ length: n }, (_, i) => (i * 7 + 1) % k);
    const upstream = values(n, 2);
    const found = await run(runtime, noWeights, (e) => {
      const x = e.input('x', { n, h: 1, w: 1, c: k }, logits);
      const { selected, logProbs } = select(e.graph, x, e.words('labels', Uint32Array.from(labels)));
      e.output('selected', selected);
      e.output('log_probs', logProbs);
      e.gradient('dx', selected, upstream, x);
    });
    const rows = Array.from({ length: n }, (_, i) => {
      const row = [...logits.subarray(i * k, (i + 1) * k)];
      const peak = Math.max(...row);
      const total = Math.log(row.reduce((sum, value) => sum + Math.exp(value - peak), 0)) + peak;
      return row.map((value) => value - total);
    });
    const gradient = rows.flatMap((row, i) =>
      row.map((value, j) => upstream[i]! * ((j === labels[i] ? 1 : 0) - Math.exp(value))),
    );
    if (k === 1) expect([...found['log_probs']!]).toEqual([0]);
    else {
      expectClose(found['log_probs']!, rows.flat(), 5e-6);
      expectClose(
        found['selected']!,
        rows.map((row, i) => row[labels[i]!]!),
        5e-6,
      );
      expectClose(found['dx']!, gradient, 1e-5);
    }
  });
});
