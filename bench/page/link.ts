/** @file A whole result in a link: JSON, deflated, in base64 of the kind that addresses take. */
import { type BenchResult, parseResult } from '../results.ts';

const through = async (bytes: Uint8Array<ArrayBuffer>, stream: GenericTransformStream): Promise<Uint8Array> =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

interface GenericTransformStream {
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly writable: WritableStream<BufferSource>;
}

/** Digits that no reader needs make a third of the text. */
const rounded = (_key: string, value: unknown): unknown =>
  typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;

export async function encodeResult(result: BenchResult): Promise<string> {
  const text = new TextEncoder().encode(JSON.stringify(result, rounded));
  const packed = await through(text as Uint8Array<ArrayBuffer>, new CompressionStream('deflate-raw'));
  let binary = '';
  for (const byte of packed) binary += String.fromCharCode(byte);
  return btoa(binary).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

/** @throws Error if the text is no result */
export async function decodeResult(text: string): Promise<BenchResult> {
  const binary = atob(text.replace(/-/g, '+').replace(/_/g, '/'));
  const packed = Uint8Array.from(binary, (c) => c.charCodeAt(0));
  const bytes = await through(packed, new DecompressionStream('deflate-raw'));
  return parseResult(new TextDecoder().decode(bytes));
}
