/**
 * @file Matrices that stay in the number format they are stored in, and how kernels read them.
 *
 * A kernel that reads packed blocks is written for float32:
 *
 *     @group(0) @binding(1) var<storage, read> weights: array<mat4x4f>;
 *     let w = weights[quad * IN_QUADS + c];
 *
 * For another format this module changes two things in its text before compilation: the binding becomes an array of vec4u,
 * and `weights[i]` becomes `weight_block(i)`, a function that makes the same mat4x4f of fewer bytes. It needs no feature of
 * the device. A kernel takes part by having a binding of that name and type that it only indexes; arithmetic stays float32.
 * A kernel that computes in float16 declares `array<mat4x4h>` instead: the format f16 as it lies there, and no other.
 *
 *   f32   64 bytes a block: 16 floats, a column per input channel
 *   f16   32 bytes: the same order, two halves a word
 *   int8  16 bytes: the same order, four integers a word; before the blocks one vec4u (how to find a block's scale), behind
 *         them the scales of the stored rows, four a vec4f, times 127
 */
import type { PackedWeights } from './resources.ts';
import type { KernelCall } from './shader.ts';

/** Number format of a packed matrix on the device. */
export type MatrixFormat = 'f32' | 'f16' | 'int8';

/** vec4u a block takes. */
export const BLOCK_VECTORS: Readonly<Record<MatrixFormat, number>> = { f32: 4, f16: 2, int8: 1 };

/** What a shape's form says of its weights: not every variant reads every format. */
export const formatNote = ({ packing }: PackedWeights): string =>
  packing.layout === 'matrix' && packing.format !== 'f32' ? ` ${packing.format}` : '';

/** What `STORE` of shaders/weights/pack_matrix.wgsl calls the format. */
export const STORE: Readonly<Record<MatrixFormat, number>> = { f32: 0, f16: 1, int8: 2 };

/** vec4u before the first block. */
export const headVectors = (format: MatrixFormat): number => (format === 'int8' ? 1 : 0);

/** @param scaleQuads quads of rows that have a scale of their own */
export const matrixBytes = (format: MatrixFormat, blocks: number, scaleQuads: number): number =>
  16 * (headVectors(format) + blocks * BLOCK_VECTORS[format] + (format === 'int8' ? scaleQuads : 0));

/** The format of the matrix that a call binds as `weights`. */
export function weightFormat({ bind }: KernelCall): MatrixFormat {
  const resource = bind['weights'];
  return resource?.kind === 'weights' && resource.packing.layout === 'matrix' ? resource.packing.format : 'f32';
}

const READERS: Readonly<Record<Exclude<MatrixFormat, 'f32'>, string>> = {
  f16: `
fn weight_block(i: u32) -> mat4x4f {
  let low = weights[2u * i];
  let high = weights[2u * i + 1u];
  return mat4x4f(
    vec4f(unpack2x16float(low.x), unpack2x16float(low.y)),
    vec4f(unpack2x16float(low.z), unpack2x16float(low.w)),
    vec4f(unpack2x16float(high.x), unpack2x16float(high.y)),
    vec4f(unpack2x16float(high.z), unpack2x16float(high.w)),
  );
}
`,
  // The head: blocks a row of scales serves, where the scales begin, and whether they belong to columns.
  int8: `
fn weight_block(i: u32) -> mat4x4f {
  let head = weights[0];
  let block = weights[i + 1u];
  let a = unpack4x8snorm(block.x);
  let b = unpack4x8snorm(block.y);
  let c = unpack4x8snorm(block.z);
  let d = unpack4x8snorm(block.w);
  if (head.z == 0u) {
    let rows = bitcast<vec4f>(weights[head.y + i / head.x]);
    return mat4x4f(a * rows, b * rows, c * rows, d * rows);
  }
  let columns = bitcast<vec4f>(weights[head.y + i % head.x]);
  return mat4x4f(a * columns.x, b * columns.y, c * columns.z, d * columns.w);
}
`,
};

const HALVES = /var<storage,\s*read>\s+weights\s*:\s*array<mat4x4h>;/;
const DECLARATION = /(var<storage,\s*read>\s+weights\s*:\s*)array<mat4x4f>;/;

/**
 * The text of a kernel for matrices of another format.
 *
 * @throws Error if the kernel reads no such matrix, or uses it otherwise than by index
 */
export function readWeightsAs(source: string, format: MatrixFormat): string {
  if (HALVES.test(source)) {
    if (format !== 'f16') throw new Error(`this kernel reads matrices in f16 only, found ${format}`);
    return source;
  }
  if (format === 'f32') return source;
  if (!DECLARATION.test(source)) throw new Error(`this kernel has no matrix "weights" to be read as ${format}`);
  let text = source.replace(/\/\/.*$/gm, '').replace(DECLARATION, '$1array<vec4u>;');
  const declared = text.indexOf('array<vec4u>;');
  for (let at = text.lastIndexOf('weights'); at > declared; at = text.lastIndexOf('weights', at - 1)) {
    if (/[\w.]/.test(text[at - 1]!) || /\w/.test(text[at + 7] ?? '')) continue;
    const open = /^weights\s*\[/.exec(text.slice(at));
    if (!open) throw new Error('a kernel may use "weights" by index only');
    const from = at + open[0].length;
    let depth = 1;
    let to = from;
    for (; depth > 0; to++) depth += text[to] === '[' ? 1 : text[to] === ']' ? -1 : 0;
    text = `${text.slice(0, at)}weight_block(${text.slice(from, to - 1)})${text.slice(to)}`;
  }
  return text + READERS[format];
}
