/** @file Writes PyTorch files for tests: pickles by opcode, in a zip archive of stored members, or in the legacy format. */

const text = new TextEncoder();

/** Instructions of a pickle, as bytes. */
export const op = {
  int: (n: number): number[] => [0x4a, n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255],
  string: (s: string): number[] => {
    const bytes = [...text.encode(s)];
    return [0x58, bytes.length & 255, (bytes.length >> 8) & 255, 0, 0, ...bytes];
  },
  global: (module: string, name: string): number[] => [0x63, ...text.encode(`${module}\n${name}\n`)],
  tuple: (...items: number[][]): number[] => [0x28, ...items.flat(), 0x74],
  list: (...items: number[][]): number[] => [0x5d, 0x28, ...items.flat(), 0x65],
  dict: (entries: Readonly<Record<string, number[]>>): number[] => [
    0x7d,
    0x28,
    ...Object.entries(entries).flatMap(([key, value]) => [...op.string(key), ...value]),
    0x75,
  ],
  none: [0x4e],
  false: [0x89],
  call: (callee: number[], ...args: number[][]): number[] => [...callee, ...op.tuple(...args), 0x52],
  storage: (type: string, key: string, length: number): number[] => [
    ...op.tuple(op.string('storage'), op.global('torch', type), op.string(key), op.string('cpu'), op.int(length)),
    0x51,
  ],
  tensor: (storage: number[], offset: number, shape: number[], strides: number[]): number[] =>
    op.call(
      op.global('torch._utils', '_rebuild_tensor_v2'),
      storage,
      op.int(offset),
      op.tuple(...shape.map(op.int)),
      op.tuple(...strides.map(op.int)),
      op.false,
      op.call(op.global('collections', 'OrderedDict')),
    ),
};

/** A whole pickle around a value. */
export const pickle = (value: number[]): Uint8Array => Uint8Array.from([0x80, 2].concat(value, [0x2e]));

/** A zip archive of stored members. */
export function zip(members: Readonly<Record<string, Uint8Array>>, method = 0): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  const put = (list: Uint8Array[], bytes: Uint8Array) => {
    list.push(bytes);
    return bytes.length;
  };
  for (const [name, data] of Object.entries(members)) {
    const header = new DataView(new ArrayBuffer(30));
    header.setUint32(0, 0x04034b50, true);
    header.setUint16(26, name.length, true);
    const entry = new DataView(new ArrayBuffer(46));
    entry.setUint32(0, 0x02014b50, true);
    entry.setUint16(10, method, true);
    entry.setUint32(20, data.length, true);
    entry.setUint32(24, data.length, true);
    entry.setUint16(28, name.length, true);
    entry.setUint32(42, at, true);
    put(directory, new Uint8Array(entry.buffer));
    put(directory, text.encode(name));
    at += put(parts, new Uint8Array(header.buffer)) + put(parts, text.encode(name)) + put(parts, data);
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(10, Object.keys(members).length, true);
  end.setUint32(16, at, true);
  return join([...parts, ...directory, new Uint8Array(end.buffer)]);
}

/** A checkpoint in PyTorch's zip format. */
export const archive = (value: number[], storages: Readonly<Record<string, ArrayBufferView>>): Uint8Array =>
  zip({
    'archive/data.pkl': pickle(value),
    ...Object.fromEntries(Object.entries(storages).map(([key, data]) => [`archive/data/${key}`, bytesOf(data)])),
    'archive/version': text.encode('3\n'),
  });

/** A checkpoint in PyTorch's format before 1.6. @param lengths elements of each storage, where they are to be lied about */
export function legacy(
  value: number[],
  storages: Readonly<Record<string, { data: ArrayBufferView; length: number }>>,
): Uint8Array {
  const magic = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
  const parts = [
    pickle(magic),
    pickle(op.int(1001)),
    pickle(op.dict({ little_endian: [0x88] })),
    pickle(value),
    pickle(op.list(...Object.keys(storages).map(op.string))),
  ];
  for (const { data, length } of Object.values(storages)) {
    const count = new DataView(new ArrayBuffer(8));
    count.setBigInt64(0, BigInt(length), true);
    parts.push(new Uint8Array(count.buffer), bytesOf(data));
  }
  return join(parts);
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function join(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
