/**
 * @file Operations without parameters that work on one element, or move elements unchanged.
 */
import addShader from '../../shaders/elementwise/add.wgsl';
import copyChannels from '../../shaders/elementwise/copy_channels.wgsl';
import reluShader from '../../shaders/elementwise/relu.wgsl';
import reluBackward from '../../shaders/elementwise/relu_backward.wgsl';
import repeatBatch from '../../shaders/elementwise/repeat_batch.wgsl';
import scaleShader from '../../shaders/elementwise/scale.wgsl';
import siluShader from '../../shaders/elementwise/silu.wgsl';
import siluBackward from '../../shaders/elementwise/silu_backward.wgsl';
import type { Graph } from '../runtime/graph.ts';
import { type Activation, describeShape, pixels, quads, sameShape } from '../runtime/resources.ts';
import { type KernelCall, kernelCall, lineGrid } from '../runtime/shader.ts';
import type { ChannelMap } from '../runtime/weights.ts';

/** y = a + b, of one shape. Also the adder of gradients for `Graph.backward`. */
export function add(graph: Graph, a: Activation, b: Activation): Activation {
  if (!sameShape(a.shape, b.shape)) {
    throw new Error(`cannot add ${describeShape(a.shape)} and ${describeShape(b.shape)}`);
  }
  const y = graph.activation('sum', a.shape);
  graph.append({
    name: 'add',
    inputs: [a, b],
    outputs: [y],
    lower: () => [
      kernelCall(addShader, {
        bind: { a, b, y },
        sizes: { COUNT: y.bytes / 16 },
        grid: lineGrid(y.bytes / 16, 64),
        cost: { flops: y.bytes / 4, bytes: 3 * y.bytes },
      }),
    ],
    adjoint: ({ outputs: [dy] }) => [dy!, dy!],
  });
  return y;
}

/** y = factor * x. */
export function scale(graph: Graph, x: Activation, factor: number): Activation {
  const scaled = (name: string, from: Activation): Activation => {
    const y = graph.activation(name, from.shape);
    graph.append({
      name,
      inputs: [from],
      outputs: [y],
      lower: () => [
        kernelCall(scaleShader, {
          bind: { x: from, y },
          sizes: { COUNT: y.bytes / 16, FACTOR: factor },
          grid: lineGrid(y.bytes / 16, 64),
          cost: { flops: y.bytes / 4, bytes: 2 * y.bytes },
        }),
      ],
      adjoint: ({ outputs: [dy] }) => [scaled(`${name} gradient`, dy!)],
    });
    return y;
  };
  return scaled('scale', x);
}

/** y = x * sigmoid(x). */
export function silu(graph: Graph, x: Activation): Activation {
  const y = graph.activation('silu', x.shape);
  const size = { sizes: { COUNT: x.bytes / 16 }, grid: lineGrid(x.bytes / 16, 64) };
  graph.append({
    name: 'silu',
    inputs: [x],
    outputs: [y],
    lower: () => [
      kernelCall(siluShader, { ...size, bind: { x, y }, cost: { flops: 6 * (x.bytes / 4), bytes: 2 * x.bytes } }),
    ],
    adjoint: ({ outputs: [dy] }) => {
      const dx = graph.activation('silu gradient', x.shape);
      graph.append({
        name: 'silu gradient',
        inputs: [dy!, x],
        outputs: [dx],
        lower: () => [
          kernelCall(siluBackward, {
            ...size,
            bind: { dy: dy!, x, dx },
            cost: { flops: 10 * (x.bytes / 4), bytes: 3 * x.bytes },
          }),
        ],
      });
      return [dx];
    },
  });
  return y;
}

/** y = max(x, 0). */
export function relu(graph: Graph, x: Activation): Activation {
  const y = graph.activation('relu', x.shape);
  const size = { sizes: { COUNT: x.bytes / 16 }, grid: lineGrid(x.bytes / 16, 64) };
  graph.append({
    name: 'relu',
    inputs: [x],
    outputs: [y],
    lower: () => [
      kernelCall(reluShader, { ...size, bind: { x, y }, cost: { flops: x.bytes / 4, bytes: 2 * x.bytes } }),
    ],
    adjoint: ({ outputs: [dy] }) => {
      const dx = graph.activation('relu gradient', x.shape);
      graph.append({
        name: 'relu gradient',
        inputs: [dy!, y],
        outputs: [dx],
        lower: () => [
          kernelCall(reluBackward, {
            ...size,
            bind: { dy: dy!, y, dx },
            cost: { flops: x.bytes / 4, bytes: 3 * x.bytes },
          }),
        ],
      });
      return [dx];
    },
  });
  return y;
}

/** A concatenation, and where its channels come from if parts in the middle had to be padded; else null. */
export interface Concatenation {
  readonly tensor: Activation;
  /** For each channel of the tensor: its number without padding, or -1. The layer that reads it packs its weights so. */
  readonly map: ChannelMap | null;
}

/** Concatenation along the channels. Every part but the last must have a multiple of 4 of them. */
export function concat(graph: Graph, parts: readonly Activation[]): Activation {
  if (parts.slice(0, -1).some((part) => part.shape.c % 4 !== 0)) {
    throw new Error(`cannot concatenate ${parts.map((p) => describeShape(p.shape)).join(' and ')} without padding`);
  }
  return concatPadded(graph, parts).tensor;
}

/** Concatenation along the channels, each part with its own padding. */
export function concatPadded(graph: Graph, parts: readonly Activation[]): Concatenation {
  const first = parts[0]!;
  if (!parts.every((part) => sameShape({ ...part.shape, c: 0 }, { ...first.shape, c: 0 }))) {
    throw new Error(`cannot concatenate ${parts.map((p) => describeShape(p.shape)).join(' and ')}`);
  }
  let real = 0;
  const map = parts.flatMap(({ shape: { c } }) =>
    Array.from({ length: quads(c) * 4 }, (_, i) => (i < c ? real++ : -1)),
  );
  const padded = map.lastIndexOf(real - 1) !== real - 1;
  const second = parts[1];
  const origin = second && parts.length === 2 ? ({ kind: 'concat', parts: [first, second] } as const) : undefined;
  const y = graph.activation('concat', { ...first.shape, c: padded ? map.length : real }, origin);
  const offsets: number[] = [];
  parts.reduce((offset, part) => {
    offsets.push(offset);
    return offset + quads(part.shape.c);
  }, 0);
  graph.append({
    name: 'concat',
    inputs: parts,
    outputs: [y],
    // Two parts a dispatch.
    lower: () =>
      parts.flatMap((part, i) =>
        i % 2 === 0 ? [copy(part, 0, y, offsets[i]!, quads(part.shape.c), parts[i + 1] ?? null)] : [],
      ),
    adjoint: ({ outputs: [dy], needs }) =>
      parts.map((part, i) => {
        if (!needs[i]) return null;
        const slice = graph.activation('concat gradient', part.shape);
        graph.append({
          name: 'concat gradient',
          inputs: [dy!],
          outputs: [slice],
          lower: () => [copy(dy!, offsets[i]!, slice, 0, quads(part.shape.c))],
        });
        return slice;
      }),
  });
  return { tensor: y, map: padded ? Int32Array.from(map) : null };
}

/** Copies `count` quads of every pixel, and after them all of `more`. */
function copy(
  x: Activation,
  from: number,
  y: Activation,
  to: number,
  count: number,
  more: Activation | null = null,
): KernelCall {
  const rows = pixels(x.shape);
  const moreQuads = more ? quads(more.shape.c) : 0;
  return kernelCall(copyChannels, {
    bind: { x, more, y },
    sizes: {
      ROWS: rows,
      COUNT: count,
      MORE: moreQuads,
      X_QUADS: quads(x.shape.c),
      Y_QUADS: quads(y.shape.c),
      FROM: from,
      TO: to,
    },
    grid: lineGrid(rows * (count + moreQuads), 64),
    cost: { flops: 0, bytes: rows * (count + moreQuads) * 32 },
  });
}

/** The batch `times` times over: [times * N, C, H, W]. */
export function repeat(graph: Graph, x: Activation, times: number): Activation {
  const y = graph.activation('repeat', { ...x.shape, n: x.shape.n * times });
  graph.append({
    name: 'repeat',
    inputs: [x],
    outputs: [y],
    lower: () => [
      kernelCall(repeatBatch, {
        bind: { x, y },
        sizes: { COUNT: x.bytes / 16, TOTAL: y.bytes / 16 },
        grid: lineGrid(y.bytes / 16, 64),
        cost: { flops: 0, bytes: x.bytes + y.bytes },
      }),
    ],
  });
  return y;
}
