/**
 * @file onnxruntime-web: its native WebGPU provider compiled to wasm, or, with `options.provider` "wasm", one thread of CPU.
 * It has no gradients. Inputs and the output are GPU buffers bound once, as a careful user would have them.
 *
 * Not used: com.microsoft.MultiHeadAttention, whose results are wrong where subgroups hold 4 lanes (SwiftShader), and graph
 * capture, which fails on some of these models with a TypeError about "gpuBufferMetadata".
 */
import * as ort from 'onnxruntime-web/webgpu';
import { attentionValues, convValues, groupNormValues, type NetworkCase, networkInputs } from '../cases.ts';
import type { Contestant, Workload } from '../contestant.ts';
import { forward } from '../networks.ts';
import { OnnxGraph } from './onnx/graph.ts';
import { convolution, groupNorm, onnxOperators, silu } from './onnx/operators.ts';

interface Input {
  readonly dims: readonly number[];
  readonly values: Float32Array;
}

let webgpu = true;

async function workload(
  g: OnnxGraph,
  inputs: Readonly<Record<string, Input>>,
  y: string,
  dims: readonly number[],
): Promise<Workload> {
  for (const [name, input] of Object.entries(inputs)) g.input(name, input.dims);
  g.output(y, dims);
  const session = await ort.InferenceSession.create(g.finish(), {
    executionProviders: [webgpu ? 'webgpu' : 'wasm'],
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
    ...(webgpu && { preferredOutputLocation: 'gpu-buffer' }),
  });
  if (!webgpu) {
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, input]) => [name, new ort.Tensor('float32', input.values, input.dims)]),
    );
    const run = async () => (await session.run(feeds))[y].data;
    return { run, read: run, wait: async () => {}, dispose: () => session.release() };
  }
  const device: GPUDevice = await ort.env.webgpu.device; // made with the first session
  const bytes = 4 * dims.reduce((a, b) => a * b, 1);
  const bufferOf = (size: number) =>
    device.createBuffer({
      size: Math.ceil(size / 16) * 16,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
  const tensorOf = (buffer: GPUBuffer, shape: readonly number[]) =>
    ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: shape });
  const buffers: GPUBuffer[] = [];
  const feeds: Record<string, unknown> = {};
  for (const [name, { dims: shape, values }] of Object.entries(inputs)) {
    const buffer = bufferOf(values.byteLength);
    device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
    buffers.push(buffer);
    feeds[name] = tensorOf(buffer, shape);
  }
  const output = bufferOf(bytes);
  const fetches = { [y]: tensorOf(output, dims) };
  return {
    run: async () => {
      await session.run(feeds, fetches);
    },
    async read() {
      await session.run(feeds, fetches);
      const staging = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(output, 0, staging, 0, bytes);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const values = new Float32Array(staging.getMappedRange().slice(0));
      staging.destroy();
      return values;
    },
    async dispose() {
      await session.release();
      for (const buffer of [...buffers, output]) buffer.destroy();
    },
  };
}

function network(c: NetworkCase): Promise<Workload> {
  const g = new OnnxGraph();
  const { x, embedding } = networkInputs(c);
  const y = forward(onnxOperators(g, c.batch), c, 'x', 't');
  const dims = c.op === 'unet' ? [c.batch, c.out, c.size, c.size] : [c.batch, c.classes];
  const inputs = {
    x: { dims: [c.batch, c.in, c.size, c.size], values: x },
    t: { dims: [c.batch, c.base], values: embedding },
  };
  return workload(g, inputs, y, dims);
}

export const contestant: Contestant = {
  async init(options) {
    webgpu = options['provider'] !== 'wasm';
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = `${options['modules']}onnxruntime-web/dist/`;
    ort.env.logLevel = 'error';
    return `${ort.env.versions.web}${webgpu ? '' : ', wasm, one thread'}`;
  },

  conv(c) {
    const g = new OnnxGraph();
    const { x, weight, bias } = convValues(c);
    const w = g.constant('weight', [c.out, c.in, c.kernel, c.kernel], weight);
    const y = convolution(g, 'x', w, g.constant('bias', [c.out], bias), c.kernel);
    const inputs = { x: { dims: [c.batch, c.in, c.size, c.size], values: x } };
    return workload(g, inputs, y, [c.batch, c.out, c.size, c.size]);
  },

  groupnorm(c) {
    const g = new OnnxGraph();
    const { x, weight, bias } = groupNormValues(c);
    const dims = [c.batch, c.channels, c.size, c.size];
    const [w, b] = [g.constant('weight', [c.channels, 1, 1], weight), g.constant('bias', [c.channels, 1, 1], bias)];
    const y = silu(g, groupNorm(g, 'x', w, b, { c: c.channels, h: c.size, w: c.size }));
    return workload(g, { x: { dims, values: x } }, y, dims);
  },

  attention(c) {
    const g = new OnnxGraph();
    const dims = [c.batch, c.heads, c.tokens, c.width];
    const { q, k, v } = attentionValues(c);
    const turned = g.node('Transpose', ['k'], { perm: [0, 1, 3, 2] });
    const scores = g.node('Mul', [g.node('MatMul', ['q', turned]), g.scalar(1 / Math.sqrt(c.width))]);
    const y = g.node('MatMul', [g.node('Softmax', [scores], { axis: -1 }), 'v']);
    return workload(g, { q: { dims, values: q }, k: { dims, values: k }, v: { dims, values: v } }, y, dims);
  },

  unet: network,
  classifier: network,
};
