import { readFileSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { openCheckpoint, readCheckpoint } from '../../src/checkpoints/read.ts';
import { toNumbers } from '../../src/checkpoints/safetensors.ts';
import { type ByteSource, memorySource } from '../../src/checkpoints/source.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { archive, legacy, op, pickle, zip } from './torch_files.ts';

/** Files that PyTorch wrote, sound and damaged; see the README beside the folder. */
const golden = (name: string): Buffer => readFileSync(new URL(`../golden/checkpoints/${name}`, import.meta.url));

const values = (file: Uint8Array, key?: string) =>
  new Map([...readCheckpoint(file, { key }).tensors].map(([name, t]) => [name, [t.shape, [...toNumbers(t)]]]));

const FLOATS = Float32Array.of(0, 1, 2, 3, 4, 5);
const storage = op.storage('FloatStorage', '0', 6);
const whole = op.tensor(storage, 0, [6], [1]);

describe('files that PyTorch wrote', () => {
  test.each([
    ['small_views_zip.pt', 'small_views_reference.safetensors'],
    ['small_views_legacy.pt', 'small_views_reference.safetensors'],
    ['small_views_newer_zip.pt', 'small_views_reference.safetensors'],
    ['small_wrapped_zip.pt', 'small_views_reference.safetensors'],
    ['small_odd_zip.pt', 'small_odd_reference.safetensors'],
    ['small_odd_legacy.pt', 'small_odd_reference.safetensors'],
  ])('%s equals %s, value for value, read at once and by ranges', async (name, reference) => {
    const expected = values(golden(reference));
    expect(expected.size).toBeGreaterThan(2);
    expect(values(golden(name))).toEqual(expected);

    const open = await openCheckpoint(memorySource(golden(name)));
    expect([...open.tensors.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [tensor, { dtype, shape }] of open.tensors) {
      const bytes = await open.read(tensor);
      const into = new Uint8Array(bytes.length);
      await open.readInto(tensor, into);
      expect([shape, [...toNumbers({ dtype, shape, bytes: into })]]).toEqual(expected.get(tensor));
      expect([...into]).toEqual([...bytes]);
    }
  });

  test('tensors that lie contiguous are views of the file', () => {
    const file = golden('small_views_zip.pt');
    for (const { bytes } of readCheckpoint(file).tensors.values()) expect(bytes.buffer).toBe(file.buffer);
  });

  test.each([
    ['bad_empty.pt', /0 bytes, shorter than/],
    ['bad_not_a_checkpoint.pt', /not a safetensors file nor one of PyTorch/],
    ['bad_garbage_pickle.pt', /instruction 0xaf that a checkpoint has no use for/],
    ['bad_missing_storage.pt', /lacks the storage "small_views_zip\/data\/0"/],
    ['bad_offset.pt', /tensor "c.bias" \[7\] reaches past its storage of 29 elements/],
    ['bad_pickle_eval_zip.pt', /names __builtin__.eval, which a checkpoint may not/],
    ['bad_pickle_eval_legacy.pt', /names __builtin__.eval/],
    ['bad_pickle_system_zip.pt', /names posix.system/],
    ['bad_pickle_system_legacy.pt', /names posix.system/],
    ['bad_storage_larger.pt', /storage "0" should hold 1048576 F32 \(4194304 bytes\), found 116 bytes/],
    ['bad_storage_huge.pt', /storage "0" should hold 1099511627776 F32/],
    ['bad_storage_negative.pt', /storage "0" should have a length from 0 on, found -8/],
    ['bad_truncated_25.pt', /cut off: it has no directory/],
    ['bad_truncated_60.pt', /cut off/],
    ['bad_truncated_97.pt', /cut off/],
    ['bad_truncated_legacy_30.pt', /cut off/],
    ['bad_truncated_legacy_95.pt', /cut off inside storage "\d+": it should have 29 F32/],
    ['small_views_deflated_zip.pt', /is compressed; PyTorch writes its members stored/],
    ['bad_dtype.safetensors', /F31/],
    ['bad_duplicate.safetensors', /names "a" twice/],
    ['bad_header_length_huge.safetensors', /header of 9223372036854775808 bytes/],
    ['bad_lfs_pointer.safetensors', /git lfs pull/],
    ['bad_shape_huge.safetensors', /takes \d+ bytes, found 16/],
  ])('%s is refused', (name, message) => {
    const said = vi.spyOn(process.stdout, 'write');
    expect(() => readCheckpoint(golden(name))).toThrow(CheckpointError);
    expect(() => readCheckpoint(golden(name))).toThrow(message);
    expect(said.mock.calls.join('')).not.toContain('checkpoint-ran-code');
    said.mockRestore();
  });
});

describe('where the weights lie', () => {
  const nested = op.dict({
    step: op.int(7),
    model: op.dict({ encoder: op.dict({ 'a.weight': whole }) }),
    teacher: op.dict({ weights: op.dict({ 'b.weight': op.tensor(storage, 2, [2], [3]) }) }),
  });

  test('a path leads to a nested state dict', () => {
    const file = archive(nested, { 0: FLOATS });
    expect(values(file, 'teacher.weights')).toEqual(new Map([['b.weight', [[2], [2, 5]]]]));
    expect(values(file, 'model.encoder')).toEqual(new Map([['a.weight', [[6], [0, 1, 2, 3, 4, 5]]]]));
  });

  test('several are named, a single one is found, none is said', () => {
    expect(() => readCheckpoint(archive(nested, { 0: FLOATS }))).toThrow(
      'several state dicts, under "model.encoder", "teacher.weights"; say which by its key',
    );
    const single = op.dict({ run: op.dict({ best: op.dict({ w: whole }) }) });
    expect([...values(archive(single, { 0: FLOATS })).keys()]).toEqual(['w']);
    expect(() => readCheckpoint(archive(op.dict({ lr: op.int(3) }), {}))).toThrow(
      'holds no state dict; its keys are "lr"',
    );
    expect(() => readCheckpoint(archive(nested, { 0: FLOATS }), { key: 'ema' })).toThrow(
      'has no state dict under "ema"; its keys are "step", "model", "teacher"',
    );
  });

  test('the averaged weights are taken before the others', () => {
    const both = op.dict({ model: op.dict({ w: whole }), ema: op.dict({ w: op.tensor(storage, 5, [], []) }) });
    expect(values(archive(both, { 0: FLOATS })).get('w')).toEqual([[], [5]]);
  });
});

describe('tensors', () => {
  test('share a storage, transposed, strided and repeated', () => {
    const dict = op.dict({
      rows: op.tensor(storage, 0, [2, 3], [3, 1]),
      columns: op.tensor(storage, 0, [3, 2], [1, 3]),
      every_other: op.tensor(storage, 1, [3], [2]),
      repeated: op.tensor(storage, 4, [2, 2], [0, 0]),
      empty: op.tensor(storage, 6, [0, 5], [5, 1]),
    });
    const expected = new Map<string, unknown>([
      [
        'rows',
        [
          [2, 3],
          [0, 1, 2, 3, 4, 5],
        ],
      ],
      [
        'columns',
        [
          [3, 2],
          [0, 3, 1, 4, 2, 5],
        ],
      ],
      ['every_other', [[3], [1, 3, 5]]],
      [
        'repeated',
        [
          [2, 2],
          [4, 4, 4, 4],
        ],
      ],
      ['empty', [[0, 5], []]],
    ]);
    expect(values(archive(dict, { 0: FLOATS }))).toEqual(expected);
    expect(values(legacy(dict, { 0: { data: FLOATS, length: 6 } }))).toEqual(expected);
  });

  test('of double precision, half and bfloat16, and parameters', () => {
    const one = (type: string, key: string, length: number) =>
      op.tensor(op.storage(type, key, length), 0, [length], [1]);
    const dict = op.dict({
      d: one('DoubleStorage', '0', 2),
      h: one('HalfStorage', '1', 2),
      b: one('BFloat16Storage', '2', 2),
      p: op.call(op.global('torch._utils', '_rebuild_parameter'), one('HalfStorage', '1', 2), op.false, op.none),
    });
    const file = archive(dict, {
      0: Float64Array.of(1 / 3, -1e300),
      1: Uint16Array.of(0x3c00, 0xc000),
      2: Uint16Array.of(0x3f80, 0xc040),
    });
    expect(values(file)).toEqual(
      new Map([
        ['d', [[2], [1 / 3, -1e300]]],
        ['h', [[2], [1, -2]]],
        ['b', [[2], [1, -3]]],
        ['p', [[2], [1, -2]]],
      ]),
    );
  });

  test.each<[string, number[], RegExp]>([
    ['reaches past its storage by a stride', op.tensor(storage, 0, [2, 2], [5, 1]), /reaches past its storage of 6/],
    ['is of 2^48 elements that are one', op.tensor(storage, 0, [2 ** 24, 2 ** 24], [0, 0]), /larger than its file/],
    ['is of 2^60 elements that are one', op.tensor(storage, 0, [2 ** 30, 2 ** 30], [0, 0]), /reaches past its storage/],
    ['has more axes than PyTorch allows', op.tensor(storage, 0, Array(65).fill(1), Array(65).fill(1)), /describe none/],
    ['has fewer strides than axes', op.tensor(storage, 0, [2, 3], [1]), /describe none/],
    ['has a negative stride', op.tensor(storage, 5, [6], [-1]), /describe none/],
    ['lies in no storage', op.tensor(op.int(3), 0, [6], [1]), /describe none/],
    [
      'lies in a storage of unknown type',
      op.tensor(op.storage('QInt8Storage', '0', 6), 0, [6], [1]),
      /torch.QInt8Storage/,
    ],
  ])('a tensor that %s is refused', (_what, tensor, message) => {
    for (const file of [
      archive(op.dict({ w: tensor }), { 0: FLOATS }),
      legacy(op.dict({ w: tensor }), { 0: { data: FLOATS, length: 6 } }),
    ]) {
      expect(() => readCheckpoint(file)).toThrow(CheckpointError);
      expect(() => readCheckpoint(file)).toThrow(message);
    }
  });

  test('a legacy storage that announces another length than its tensors is refused', () => {
    expect(() => readCheckpoint(legacy(op.dict({ w: whole }), { 0: { data: FLOATS, length: 5 } }))).toThrow(
      'storage "0" should have 6 elements, found 5',
    );
  });
});

describe('pickles that are no data', () => {
  const refuse = (value: number[], message: RegExp) => {
    const file = archive(value, { 0: FLOATS });
    expect(() => readCheckpoint(file)).toThrow(CheckpointError);
    expect(() => readCheckpoint(file)).toThrow(message);
  };

  test.each<[string, number[], RegExp]>([
    ['a function by name', op.call(op.global('os', 'system'), op.string('true')), /names os.system, which/],
    ['a name from the stack', [...op.string('builtins'), ...op.string('exec'), 0x93], /names builtins.exec/],
    ['a name that is a list', [...op.list(), ...op.list(), 0x93], /names what is no name/],
    ['a call of a value', op.call(op.int(3)), /calls what cannot be called/],
    ['an object by its class', [0x28, ...op.global('os', 'system').slice(1), 0x69], /instruction 0x/],
    ['an unknown instruction', [0xf3], /instruction 0xf3/],
    ['a value that is not there', [0x85], /takes a value that is not there/],
    ['a memory that was never filled', [0x68, 9], /never stored 9/],
    ['a name that is no text', [0x63, 0xff, 0xfe, 10, 0x61, 10], /not UTF-8/],
    ['a list nested 200 000 deep', [...Array(200_000).fill(0x5d), ...Array(199_999).fill(0x61)], /holds no state dict/],
    ['more lists than a checkpoint has', Array(1_000_002).fill(0x5d), /more values than a checkpoint has/],
    [
      'a storage whose length is nested lists',
      [
        ...op.tuple(op.string('storage'), op.global('torch', 'FloatStorage'), op.string('0'), op.string('cpu'), [
          ...Array(50_000).fill(0x5d),
          ...Array(49_999).fill(0x61),
        ]),
        0x51,
      ],
      /length from 0 on, found \[/,
    ],
  ])('%s', (_what, value, message) => refuse(value, message));

  test('a dictionary cannot touch a prototype', () => {
    const file = archive(op.dict({ __proto__x: whole, constructor: whole, ['__proto__']: whole }), { 0: FLOATS });
    expect(values(file).size).toBeGreaterThan(1);
    expect(({} as Record<string, unknown>)['dtype']).toBeUndefined();
  });
});

describe('archives', () => {
  const good = { 'a/data.pkl': pickle(op.dict({ w: whole })), 'a/data/0': new Uint8Array(FLOATS.buffer) };

  test.each<[string, Uint8Array, RegExp]>([
    ['no archive of PyTorch', zip({ 'a.txt': new Uint8Array(3) }), /no data.pkl/],
    ['compressed', zip(good, 8), /is compressed/],
    ['of a big-endian machine', zip({ ...good, 'a/byteorder': new TextEncoder().encode('big') }), /big-endian/],
  ])('%s', (_what, file, message) => {
    expect(() => readCheckpoint(file)).toThrow(CheckpointError);
    expect(() => readCheckpoint(file)).toThrow(message);
  });

  test('a member that claims terabytes is refused before anything is read', async () => {
    const file = zip(good);
    const view = new DataView(file.buffer);
    const entry = [...file.keys()]
      .filter((i) => view.byteLength - i > 4 && view.getUint32(i, true) === 0x02014b50)
      .at(-1)!;
    view.setUint32(entry + 20, 0xfffffff0, true);
    view.setUint32(entry + 24, 0xfffffff0, true);
    let asked = 0;
    const counting: ByteSource = {
      size: file.length,
      read: async (begin, end) => {
        asked += end - begin;
        return file.subarray(begin, end);
      },
    };
    await expect(openCheckpoint(counting)).rejects.toThrow(/cut off inside "a\/data\/0"/);
    expect(asked).toBeLessThan(2 * file.length);
  });

  test('opening reads the directory and the pickle, not the values', async () => {
    const many = new Float32Array(1_000_000);
    const dict = op.dict({ w: op.tensor(op.storage('FloatStorage', '0', many.length), 0, [many.length], [1]) });
    for (const file of [archive(dict, { 0: many }), legacy(dict, { 0: { data: many, length: many.length } })]) {
      let asked = 0;
      const source = memorySource(file);
      const counting: ByteSource = {
        size: source.size,
        read: (begin, end) => {
          asked += end - begin;
          return source.read(begin, end);
        },
      };
      const open = await openCheckpoint(counting);
      expect(open.tensors.get('w')).toMatchObject({ dtype: 'F32', shape: [many.length] });
      expect(asked).toBeLessThan(400_000);
    }
  });
});
