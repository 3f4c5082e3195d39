import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { halfOfFloat, halfToNumber } from '../../src/checkpoints/dtypes.ts';
import { readSafetensors, toNumbers, writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { UNET_FILE } from '../models.ts';

/** A file from a header and data, without any of the writer's checks. */
function file(header: string | object, data = new Uint8Array(0), length?: bigint): Uint8Array {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  const bytes = new TextEncoder().encode(text);
  const whole = new Uint8Array(8 + bytes.length + data.length);
  new DataView(whole.buffer).setBigUint64(0, length ?? BigInt(bytes.length), true);
  whole.set(bytes, 8);
  whole.set(data, 8 + bytes.length);
  return whole;
}

const tensor = (begin: number, end: number, shape: unknown = [(end - begin) / 4], dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

describe('reading', () => {
  test('what was written comes back, views and metadata included', () => {
    const written = writeSafetensors(
      {
        bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 255) },
        floats: { dtype: 'F32', shape: [2, 1], data: Float32Array.of(0.5, -3) },
        numbers: { dtype: 'I32', shape: [], data: Int32Array.of(-7) },
      },
      { seed: '1', note: 'é' },
    );
    const { tensors, metadata } = readSafetensors(written);
    expect(new Map([...tensors].map(([name, t]) => [name, [t.dtype, t.shape, [...toNumbers(t)]]]))).toEqual(
      new Map<string, unknown>([
        ['floats', ['F32', [2, 1], [0.5, -3]]],
        ['numbers', ['I32', [], [-7]]],
        ['bytes', ['U8', [3], [1, 2, 255]]],
      ]),
    );
    expect(Object.fromEntries(metadata)).toEqual({ seed: '1', note: 'é' });
    expect(tensors.get('floats')!.bytes.buffer).toBe(written.buffer);
  });

  test('the shipped U-Net', () => {
    const { tensors, metadata } = readSafetensors(readFileSync(UNET_FILE));
    expect(tensors.get('out.2.weight')).toMatchObject({ dtype: 'F16', shape: [2, 32, 3, 3] });
    expect(JSON.parse(metadata.get('config')!)).toMatchObject({ kind: 'unet', null_class: 10 });
  });

  test('a tensor called __proto__ is a tensor like any other', () => {
    const { tensors } = readSafetensors(
      file('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', new Uint8Array(4)),
    );
    expect([...tensors.keys()]).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>)['dtype']).toBeUndefined();
  });

  test('halves: normal, subnormal, signed, infinite, not a number', () => {
    expect([0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x8000].map(halfToNumber)).toEqual([
      1,
      -2,
      2 ** -24,
      1023 * 2 ** -24,
      65504,
      -0,
    ]);
    expect([halfToNumber(0x7c00), halfToNumber(0xfc00)]).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]);
    expect(halfToNumber(0x7c01)).toBeNaN();
  });

  test('numbers to halves: every half comes back, and what lies between goes to the nearer, ties to even', () => {
    const values = Array.from({ length: 0x7c00 }, (_, bits) => halfToNumber(bits));
    expect(values.findIndex((value, bits) => halfOfFloat(value) !== bits)).toBe(-1);
    expect(values.findIndex((value, bits) => halfOfFloat(-value) !== (bits | 0x8000))).toBe(-1);
    const wrong = values.slice(1).findIndex((value, i) => {
      const middle = (values[i]! + value) / 2;
      const even = i % 2 === 0 ? i : i + 1;
      const [below, above] = [Math.fround(middle * (1 - 2 ** -23)), Math.fround(middle * (1 + 2 ** -23))];
      return halfOfFloat(middle) !== even || halfOfFloat(below) !== i || halfOfFloat(above) !== i + 1;
    });
    expect(wrong).toBe(-1);
    expect([65519.99, 65520, Number.POSITIVE_INFINITY, -1e30, 1e-30].map(halfOfFloat)).toEqual([
      0x7bff, 0x7c00, 0x7c00, 0xfc00, 0,
    ]);
    expect(halfToNumber(halfOfFloat(Number.NaN))).toBeNaN();
  });
});

describe('refusing', () => {
  const data = new Uint8Array(8);
  test.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /0 bytes, shorter/],
    ['a header length of zero', file('', data, 0n), /announces a header of 0 bytes/],
    ['a header longer than the file', file('{}', data, 1000n), /announces a header of 1000 bytes and has 18/],
    ['a header of 2^63 bytes', file('{}', data, 2n ** 63n), /cut off/],
    [
      'a Git LFS pointer',
      new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
      /git lfs pull/,
    ],
    ['a zip archive', new TextEncoder().encode('PK\x03\x04 and so on'), /zip archive/],
    ['a header that is no JSON', file('{"a":'), /not JSON/],
    ['a header that is no object', file('[]'), /not a JSON object/],
    ['a header that is no UTF-8', file('{"\u00e9":1}').map((b) => (b === 0xc3 ? 0xff : b)), /not UTF-8/],
    [
      'a name twice',
      file(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        data,
      ),
      /names "a" twice/,
    ],
    [
      'an escaped name twice',
      file(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        data,
      ),
      /names "a" twice/,
    ],
    ['an unknown type', file({ a: tensor(0, 8, [2], 'F31') }, data), /dtype "F31"; known are/],
    ['a type from the prototype', file({ a: tensor(0, 8, [2], 'toString') }, data), /dtype "toString"/],
    ['a negative dimension', file({ a: tensor(0, 8, [-2]) }, data), /shape \[-2\]/],
    ['a broken dimension', file({ a: tensor(0, 8, [1.5]) }, data), /shape \[1.5\]/],
    ['a shape that is no list', file({ a: tensor(0, 8, 2) }, data), /shape 2/],
    ['a huge shape', file({ a: tensor(0, 8, [2 ** 40, 2 ** 40]) }, data), /takes .* bytes, found 8/],
    ['offsets the wrong way round', file({ a: tensor(8, 0, [2]) }, data), /data_offsets \[8,0\]/],
    ['a tensor past the end', file({ a: tensor(0, 16, [4]) }, data), /ends at byte 16, but the file has 8.*cut off/],
    ['type and range that disagree', file({ a: tensor(0, 8, [2], 'F16') }, data), /F16 \[2\] takes 4 bytes, found 8/],
    ['an overlap', file({ a: tensor(0, 8), b: tensor(4, 8) }, data), /"b" overlaps/],
    ['a hole', file({ a: tensor(4, 8) }, data), /leaves 4 bytes unused/],
    ['bytes left over', file({ a: tensor(0, 4) }, data), /4 bytes follow/],
    ['metadata that are no strings', file({ __metadata__: { a: 1 } }), /__metadata__.a is not a string/],
    [
      'an integer with a fraction',
      file('{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', data),
      /fraction at/,
    ],
    [
      'a shape that overflows and comes back through zero',
      file({ a: tensor(0, 0, [2 ** 40, 2 ** 40, 0]), b: tensor(0, 8) }, data),
      /F32 \[1099511627776,1099511627776,0\] takes 0 bytes/,
    ],
    [
      'a field twice',
      file('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', data),
      /names "dtype" twice/,
    ],
    ['a header that begins with a space', file(' {}'), /does not begin with its brace/],
    ['a header that begins with a byte order mark', file('\ufeff{}'), /not JSON/],
    ['an entry that is nothing', file('{"a":null}'), /"a" has dtype undefined/],
  ])('%s', (_what, bytes, message) => {
    expect(() => readSafetensors(bytes)).toThrow(CheckpointError);
    expect(() => readSafetensors(bytes)).toThrow(message);
  });

  test('every cut of a real file', () => {
    const whole = readFileSync(UNET_FILE);
    for (const share of [0.001, 0.004, 0.25, 0.6, 0.97, 0.999999]) {
      expect(() => readSafetensors(whole.subarray(0, Math.floor(whole.length * share)))).toThrow(CheckpointError);
    }
  });
});
