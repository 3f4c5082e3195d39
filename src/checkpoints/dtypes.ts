/**
 * @file Number formats of stored tensors, named as safetensors names them, and their values as JavaScript numbers.
 */

/** Bytes of one element. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

/** Values of stored elements, little-endian. 64-bit integers must be within 2^53. */
export function numbersOf(dtype: Dtype, bytes: Uint8Array): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = DTYPE_BYTES[dtype];
  const values = new Float64Array(bytes.byteLength / size);
  for (let i = 0; i < values.length; i++) values[i] = readValue(view, dtype, i * size);
  return values;
}

function readValue(view: DataView, dtype: Dtype, at: number): number {
  switch (dtype) {
    case 'F64':
      return view.getFloat64(at, true);
    case 'F32':
      return view.getFloat32(at, true);
    case 'F16':
      return halfToNumber(view.getUint16(at, true));
    case 'BF16':
      return bfloat16ToNumber(view.getUint16(at, true));
    case 'I64':
      return Number(view.getBigInt64(at, true));
    case 'U64':
      return Number(view.getBigUint64(at, true));
    case 'I32':
      return view.getInt32(at, true);
    case 'U32':
      return view.getUint32(at, true);
    case 'I16':
      return view.getInt16(at, true);
    case 'U16':
      return view.getUint16(at, true);
    case 'I8':
      return view.getInt8(at);
    case 'U8':
    case 'BOOL':
      return view.getUint8(at);
  }
}

/** IEEE 754 binary16 to number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

const scratch = new DataView(new ArrayBuffer(4));

export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/**
 * The nearest IEEE 754 binary16, ties to even. What is beyond the largest becomes infinite, as in the standard.
 *
 * @param value rounded to float32 first: the formats that are converted are no wider, or are meant to be read as float32
 */
export function halfOfFloat(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 and above round to infinity; below 2^-14 a half has no leading one, and its unit is 2^-24.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | roundToEven(Math.abs(scratch.getFloat32(0)) * 2 ** 24);
  const rebased = magnitude - 0x38000000; // exponent bias 127 to 15
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
}

function roundToEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}
