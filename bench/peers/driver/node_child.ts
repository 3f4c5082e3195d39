/**
 * @file A contestant's process in Node. Libraries written for pages find here what they expect of one: navigator.gpu, and
 * a fetch that reads files.
 */
import { readFileSync } from 'node:fs';
import { create, globals } from 'webgpu';

export interface Request {
  readonly method: string;
  readonly args: readonly unknown[];
}

export interface Reply {
  readonly result?: unknown;
  readonly error?: string;
}

Object.assign(globalThis, globals);
const gpu = create(JSON.parse(process.argv[2] ?? '[]') as string[]);
Object.defineProperty(globalThis, 'navigator', {
  value: { gpu, userAgent: 'node', hardwareConcurrency: 1, language: 'en' },
  configurable: true,
});
Object.assign(globalThis, { self: globalThis });

// dawn.node refuses views on a SharedArrayBuffer, which onnxruntime-web's heap is.
const { writeBuffer } = GPUQueue.prototype;
GPUQueue.prototype.writeBuffer = function (buffer, offset, data, from = 0, count?: number) {
  const view = ArrayBuffer.isView(data) ? data : new Uint8Array(data);
  if (!(view.buffer instanceof SharedArrayBuffer)) {
    return count === undefined
      ? writeBuffer.call(this, buffer, offset, data as BufferSource, from)
      : writeBuffer.call(this, buffer, offset, data as BufferSource, from, count);
  }
  const width = 'BYTES_PER_ELEMENT' in view ? (view.BYTES_PER_ELEMENT as number) : 1;
  const bytes = count === undefined ? view.byteLength - from * width : count * width;
  const copy = new Uint8Array(bytes);
  copy.set(new Uint8Array(view.buffer, view.byteOffset + from * width, bytes));
  return writeBuffer.call(this, buffer, offset, copy);
};

const { fetch } = globalThis;
globalThis.fetch = async (input, options) => {
  const url = input instanceof globalThis.Request ? input.url : String(input);
  if (!url.startsWith('file:')) return fetch(input, options);
  const type = url.endsWith('.wasm') ? 'application/wasm' : 'text/javascript';
  return new Response(readFileSync(new URL(url)), { headers: { 'content-type': type } });
};

let peer: Record<string, (...args: unknown[]) => unknown> = {};

process.on('message', async ({ method, args }: Request) => {
  const reply = (message: Reply) => process.send!(message);
  try {
    if (method === 'load') {
      peer = await import(String(args[0]));
      reply({});
    } else {
      reply({ result: await peer[method]!(...args) });
    }
  } catch (error) {
    reply({ error: error instanceof Error ? error.message : String(error) });
  }
});
