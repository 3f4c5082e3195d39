import { afterAll, describe, expect, test } from 'vitest';
import * as attention from '../../src/layers/attention.ts';
import * as attentionPool from '../../src/layers/attention_pool.ts';
import { Runtime } from '../../src/runtime/device.ts';
import { Graph, type Target } from '../../src/runtime/graph.ts';
import { schedule } from '../../src/runtime/schedule.ts';
import { checkpointOf, expectClose, noWeights, run, testRuntime, values } from '../device.ts';
import * as reference from '../reference/operations.ts';

const own = await testRuntime();
const WAYS = ['online', 'tiled', 'stepwise 16x4', 'stepwise 8x4', 'stepwise 4x2'] as const;
const runtimes = Object.fromEntries(
  WAYS.map((way) => [way, new Runtime(own.device, { variants: { attention: way } })]),
) as Record<(typeof WAYS)[number], Runtime>;
afterAll(() => {
  for (const runtime of Object.values(runtimes)) runtime.dispose();
});

/** Each shape in each way. */
const inEachWay = <T extends readonly unknown[]>(shapes: readonly T[]) =>
  WAYS.flatMap((way) => shapes.map((shape) => [way, ...shape] as const));

/** [N, heads, width, T]: odd widths, one token, more tokens than a tile, heads wider than an invocation's part. */
const SHAPES: [number, number, number, number][] = [
  [1, 1, 4, 1],
  [2, 3, 5, 7],
  [1, 2, 8, 17],
  [1, 1, 33, 9],
  [2, 1, 70, 6],
  [1, 2, 16, 130],
];

/** Packs q, k, v of [N, heads, width, T] each into [N, heads * 3 * padded, T]. */
function pack(
  parts: readonly reference.Values[],
  n: number,
  heads: number,
  width: number,
  tokens: number,
): Float32Array {
  const padded = Math.ceil(width / 4) * 4;
  const count = parts.length;
  const packed = new Float32Array(n * heads * count * padded * tokens);
  for (let i = 0; i < n; i++)
    for (let head = 0; head < heads; head++)
      parts.forEach((part, index) => {
        for (let d = 0; d < width; d++)
          for (let t = 0; t < tokens; t++) {
            const channel = (head * count + index) * padded + d;
            packed[(i * heads * count * padded + channel) * tokens + t] =
              part[((i * heads + head) * width + d) * tokens + t]!;
          }
      });
  return packed;
}

describe.each(inEachWay(SHAPES))('%s attention N=%i heads=%i width=%i T=%i', (way, n, heads, width, tokens) => {
  const runtime = runtimes[way];
  const length = n * heads * width * tokens;
  const padded = Math.ceil(width / 4) * 4;
  const parts = [values(length, 1, 2), values(length, 2, 2), values(length, 3)] as const;
  const upstream = values(length, 4);
  const shape = { n, h: 1, w: tokens, c: heads * 3 * padded };

  test('forward and the gradients of q, k and v', async () => {
    const found = await run(runtime, noWeights, (e) => {
      const qkv = e.input('qkv', shape, pack(parts, n, heads, width, tokens));
      const out = attention.forward(e.graph, { heads, width }, qkv);
      e.output('out', out);
      e.gradient('d', out, pack([upstream], n, heads, width, tokens), qkv);
    });
    const [q, k, v] = parts;
    const evaluate = (a: reference.Values, b: reference.Values, c: reference.Values) =>
      reference.attention(a, b, c, n, heads, width, tokens);
    expectClose(found['out']!, pack([evaluate(q, k, v)], n, heads, width, tokens), 5e-6);
    if (length * tokens > 20000) return;
    const gradients = [
      reference.centralDifferences((point) => evaluate(point, k, v), q, upstream),
      reference.centralDifferences((point) => evaluate(q, point, v), k, upstream),
      reference.centralDifferences((point) => evaluate(q, k, point), v, upstream),
    ];
    expectClose(found['d']!, pack(gradients, n, heads, width, tokens), 2e-5);
  });

  test('asking for the first token only gives its answer and its gradient', async () => {
    const first = (data: Float32Array) => data.filter((_, i) => i % tokens === 0);
    const packedUpstream = pack([upstream], n, heads, width, tokens);
    const masked = packedUpstream.map((value, i) => (i % tokens === 0 ? value : 0));
    const found = await run(runtime, noWeights, (e) => {
      const qkv = e.input('qkv', shape, pack(parts, n, heads, width, tokens));
      const all = attention.forward(e.graph, { heads, width }, qkv);
      const one = attention.forward(e.graph, { heads, width }, qkv, 1);
      e.output('all', all);
      e.output('one', one);
      e.gradient('d all', all, masked, qkv);
      e.gradient('d one', one, first(packedUpstream), qkv);
    });
    expectClose(found['one']!, first(found['all']!), 1e-6);
    if (tokens > 1) expectClose(found['d one']!, found['d all']!, 5e-6);
  });
});

/** [N, heads, width, T, queries]: below, at and above the edges of tiles; some tokens that do not ask; wide heads. */
const TILED_SHAPES: [number, number, number, number, number][] = [
  [1, 2, 30, 40, 40],
  [1, 1, 32, 64, 64],
  [2, 3, 31, 65, 65],
  [1, 2, 30, 130, 70],
  [1, 1, 64, 70, 70],
  [1, 1, 122, 66, 66],
];

/** Compiling all tiles takes software adapters minutes. */
const TILES = process.env['PILOTWAVE_ALL_VARIANTS']
  ? ['tiled 16x64', 'tiled 32x32', 'tiled 32x64', 'tiled 64x32', 'tiled 64x64']
  : ['tiled 64x64'];

describe('tiles in workgroup memory', () => {
  const cases = TILES.flatMap((name) => TILED_SHAPES.map((shape) => [name, ...shape] as const));
  const title = '%s, N=%i heads=%i width=%i T=%i, %i of them ask';
  const targetOf = (name: string): Target => ({ ...own.target, variants: { attention: name } });
  const shapeOf = (n: number, heads: number, width: number, w: number) => ({
    n,
    h: 1,
    w,
    c: heads * 3 * 4 * Math.ceil(width / 4),
  });
  const fits = ([name, n, heads, width, tokens, queries]: (typeof cases)[number]) => {
    const graph = new Graph(targetOf(name));
    attention.forward(graph, { heads, width }, graph.input('qkv', shapeOf(n, heads, width, tokens)), queries);
    return graph.operations[0]!.choice!.chosen().name === name;
  };

  test.skip.each(cases.filter((one) => !fits(one)))(`${title}: no room on this device`, () => {});

  test.each(cases.filter(fits))(title, async (name, n, heads, width, tokens, queries) => {
    const length = n * heads * width * tokens;
    const parts = [values(length, 1, 2), values(length, 2, 2), values(length, 3)] as const;
    const upstream = values(length, 4).map((value, i) => (i % tokens < queries ? value : 0));
    const answers = (all: reference.Values) =>
      pack([all], n, heads, width, tokens).filter((_, i) => i % tokens < queries);
    const found = await run(
      own,
      noWeights,
      (e) => {
        const qkv = e.input('qkv', shapeOf(n, heads, width, tokens), pack(parts, n, heads, width, tokens));
        const out = attention.forward(e.graph, { heads, width }, qkv, queries);
        e.output('out', out);
        e.gradient('d', out, answers(upstream), qkv);
      },
      targetOf(name),
    );
    expectClose(found['out']!, answers(reference.attention(...parts, n, heads, width, tokens)), 5e-6);
    const gradients = reference.attentionGradient(...parts, upstream, n, heads, width, tokens);
    expectClose(found['d']!, pack(gradients, n, heads, width, tokens), 5e-6);
  });
});

test('the gradient that tiles are held to is that of central differences', () => {
  const [n, heads, width, tokens] = [1, 2, 3, 5];
  const length = n * heads * width * tokens;
  const [q, k, v, upstream] = [values(length, 1, 2), values(length, 2, 2), values(length, 3), values(length, 4)];
  const evaluate = (a: reference.Values, b: reference.Values, c: reference.Values) =>
    reference.attention(a, b, c, n, heads, width, tokens);
  const [dq, dk, dv] = reference.attentionGradient(q!, k!, v!, upstream!, n, heads, width, tokens);
  expectClose(
    dq,
    reference.centralDifferences((point) => evaluate(point, k!, v!), q!, upstream!),
    1e-8,
  );
  expectClose(
    dk,
    reference.centralDifferences((point) => evaluate(q!, point, v!), k!, upstream!),
    1e-8,
  );
  expectClose(
    dv,
    reference.centralDifferences((point) => evaluate(q!, k!, point), v!, upstream!),
    1e-8,
  );
});

test('forcing a way changes the kernels', () => {
  const shaders = (variants: Target['variants']) => {
    const graph = new Graph({ adapter: 'cpu', slowCompiler: false, variants });
    const out = attention.forward(graph, { heads: 1, width: 4 }, graph.input('qkv', { n: 1, h: 8, w: 8, c: 12 }));
    return schedule(graph, [out]).calls.map(({ shader }) => shader.name);
  };
  expect(shaders({ attention: 'online' })).toEqual(['attention/forward']);
  expect(shaders({ attention: 'tiled' })).toEqual(['attention/tiled_forward']);
  expect(shaders({ attention: 'stepwise' })).toEqual(['attention/scores', 'attention/mix']);
  expect(shaders(undefined)).toEqual(shaders({ attention: 'stepwise' }));
});

// Of 37 tokens the largest score is in one tile of keys for some queries, in another for others.
test.each(inEachWay([[5], [37]]))(
  '%s: scores of a hundred of %i tokens neither overflow nor lose the largest',
  async (way, tokens) => {
    const [n, heads, width] = [1, 1, 4];
    const parts = [values(4 * tokens, 1, 14), values(4 * tokens, 2, 14), values(4 * tokens, 3)] as const;
    const found = await run(runtimes[way], noWeights, (e) => {
      const qkv = e.input('qkv', { n, h: 1, w: tokens, c: 12 }, pack(parts, n, heads, width, tokens));
      e.output('out', attention.forward(e.graph, { heads, width }, qkv));
    });
    expectClose(
      found['out']!,
      pack([reference.attention(...parts, n, heads, width, tokens)], n, heads, width, tokens),
      5e-5,
    );
  },
);

test('both stored orders map to the packed one', () => {
  const { qkv } = attention.channelMaps({ heads: 2, width: 4 }, 'new');
  expect([...qkv!]).toEqual([0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]);
  expect(attention.channelMaps({ heads: 2, width: 4 }, 'legacy')).toEqual({ qkv: null, out: null });
  const odd = attention.channelMaps({ heads: 2, width: 3 }, 'legacy');
  expect([...odd.qkv!].slice(0, 8)).toEqual([0, 1, 2, -1, 3, 4, 5, -1]);
  expect([...odd.out!]).toEqual([0, 1, 2, -1, 3, 4, 5, -1]);
});

test('the attention pool refuses a size its positions do not cover', async () => {
  const spec = { size: 2, channels: 4, headChannels: 4, out: 3 };
  const weights = checkpointOf(
    Object.fromEntries(
      attentionPool.parameters(spec, 'pool').map(({ name, shape }) => [
        name,
        {
          shape,
          data: values(
            shape.reduce((a, b) => a * b, 1),
            1,
          ),
        },
      ]),
    ),
  );
  await expect(
    run(own, weights, (e) => {
      e.output('y', attentionPool.forward(e, spec, 'pool', e.input('x', { n: 1, c: 4, h: 3, w: 2 }, values(24, 1))));
    }),
  ).rejects.toThrow('pool takes [N, 4, 2, 2], found [1, 4, 3, 2]');
});
