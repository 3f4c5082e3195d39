/**
 * @file The networks' operators as ONNX nodes, the way torch.onnx.export writes them (opset 17): group norm through
 * InstanceNormalization, SiLU as x times Sigmoid, attention as MatMul, Softmax, MatMul.
 */
import { parameterValues } from '../../data.ts';
import type { MapSize, Operators } from '../../operators.ts';
import type { OnnxGraph } from './graph.ts';

export const convolution = (g: OnnxGraph, x: string, weight: string, bias: string, kernel: number): string => {
  const pad = (kernel - 1) / 2;
  return g.node('Conv', [x, weight, bias], {
    dilations: [1, 1],
    group: 1,
    kernel_shape: [kernel, kernel],
    pads: [pad, pad, pad, pad],
    strides: [1, 1],
  });
};

export const silu = (g: OnnxGraph, x: string): string => g.node('Mul', [x, g.node('Sigmoid', [x])]);

/** @param weight and bias: of shape [c, 1, 1] */
export function groupNorm(g: OnnxGraph, x: string, weight: string, bias: string, { c, h, w }: MapSize): string {
  const ones = g.constant('ones', [32], new Float32Array(32).fill(1));
  const zeros = g.constant('zeros', [32], new Float32Array(32));
  const grouped = g.node('Reshape', [x, g.ints([0, 32, -1])]);
  const normal = g.node('InstanceNormalization', [grouped, ones, zeros], { epsilon: { float: 1e-5 } });
  return g.node('Add', [g.node('Mul', [g.node('Reshape', [normal, g.ints([-1, c, h, w])]), weight]), bias]);
}

export function onnxOperators(g: OnnxGraph, batch: number): Operators<string> {
  const shapes = new Map<string, readonly number[]>();
  /** A parameter becomes a constant where it is used: a norm's needs another shape than the checkpoint gives it. */
  const use = (name: string, tail: readonly number[] = []) => {
    const shape = shapes.get(name)!;
    return g.constant(name, [...shape, ...tail], parameterValues(name, shape));
  };
  const reshape = (x: string, dims: readonly number[]) => g.node('Reshape', [x, g.ints(dims)]);
  /** As QKVAttention does: q and k scaled alike. @param qkv [batch, 3c, tokens] @returns [batch, c, tokens] */
  const attend = (qkv: string, c: number, heads: number, tokens: number): string => {
    const width = c / heads;
    const [q, k, v] = g.nodes('Split', [qkv, g.ints([c, c, c])], { axis: 1 }, 3) as [string, string, string];
    const byHead = (x: string) => reshape(x, [batch, heads, width, tokens]);
    const turned = (x: string) => g.node('Transpose', [x], { perm: [0, 1, 3, 2] });
    const scale = g.scalar(width ** -0.25);
    const scores = g.node('MatMul', [g.node('Mul', [turned(byHead(q)), scale]), g.node('Mul', [byHead(k), scale])]);
    const result = g.node('MatMul', [g.node('Softmax', [scores], { axis: -1 }), turned(byHead(v))]);
    return reshape(turned(result), [batch, c, tokens]);
  };
  return {
    parameter(name, shape) {
      shapes.set(name, shape);
      return name;
    },
    conv: (x, weight, bias, { kernel }) => convolution(g, x, use(weight), use(bias), kernel),
    groupNorm: (x, weight, bias, size) => groupNorm(g, x, use(weight, [1, 1]), use(bias, [1, 1]), size),
    silu: (x) => silu(g, x),
    scaleShift(x, both, { c }) {
      const halves = g.nodes('Split', [reshape(both, [batch, 2 * c, 1, 1]), g.ints([c, c])], { axis: 1 }, 2);
      const [scale, shift] = halves as [string, string];
      return g.node('Add', [g.node('Mul', [x, g.node('Add', [scale, g.scalar(1)])]), shift]);
    },
    linear: (x, weight, bias) => g.node('Gemm', [x, use(weight), use(bias)], { transB: 1 }),
    add: (a, b) => g.node('Add', [a, b]),
    concatenate: (a, b) => g.node('Concat', [a, b], { axis: 1 }),
    up: (x) =>
      g.node('Resize', [x, '', g.floats([1, 1, 2, 2])], {
        coordinate_transformation_mode: 'asymmetric',
        mode: 'nearest',
        nearest_mode: 'floor',
      }),
    down: (x) => g.node('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] }),
    attention(qkv, { c, h, w, heads }) {
      return reshape(attend(reshape(qkv, [batch, 3 * c, h * w]), c, heads, h * w), [batch, c, h, w]);
    },
    attentionPool(x, { c, h, w, heads }, p) {
      const flat = reshape(x, [batch, c, h * w]);
      const mean = g.node('ReduceMean', [flat], { axes: [2], keepdims: 1 });
      const sequence = g.node('Add', [g.node('Concat', [mean, flat], { axis: 2 }), use(p.position)]);
      const qkv = g.node('Add', [g.node('MatMul', [use(p.qkvWeight), sequence]), use(p.qkvBias, [1])]);
      const all = attend(qkv, c, heads, h * w + 1);
      const first = reshape(g.node('Slice', [all, g.ints([0]), g.ints([1]), g.ints([2])]), [batch, c]);
      return g.node('Gemm', [first, use(p.outWeight), use(p.outBias)], { transB: 1 });
    },
  };
}
