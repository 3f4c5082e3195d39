import { readFileSync } from 'node:fs';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { CHUNK_BYTES, CheckpointCache, memoryBlobs } from '../../src/checkpoints/chunk_store.ts';
import { type FetchProgress, fetchModel, openUrl } from '../../src/checkpoints/fetch.ts';
import { loadModel } from '../../src/checkpoints/model.ts';
import { openCheckpoint } from '../../src/checkpoints/read.ts';
import { writeSafetensors } from '../../src/checkpoints/safetensors.ts';
import type { ByteSource } from '../../src/checkpoints/source.ts';
import { noGuidance } from '../../src/diffusion/guidance.ts';
import { sample } from '../../src/diffusion/sample.ts';
import { CheckpointError } from '../../src/runtime/errors.ts';
import { testRuntime } from '../device.ts';
import { UNET_FILE } from '../models.ts';
import { serveFiles } from './file_server.ts';
import { archive, op } from './torch_files.ts';

/** Three and a half chunks, none like another. */
const SIZE = 3.5 * CHUNK_BYTES;
const large = (salt = 0) => {
  const words = new Uint32Array(SIZE / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 2654435761) ^ salt;
  return new Uint8Array(words.buffer);
};

const server = await serveFiles({});
afterAll(() => server.close());
beforeEach(() => {
  for (const name of Object.keys(server.files)) delete server.files[name];
  server.log.length = 0;
});
const url = () => `${server.origin}/file`;
const gets = () => server.log.filter(({ method }) => method === 'GET');

async function readWhole(source: ByteSource, step = 1_000_003): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < source.size; at += step) {
    parts.push((await source.read(at, Math.min(source.size, at + step))).slice());
  }
  return Buffer.concat(parts);
}

const equal = (a: Uint8Array, b: Uint8Array) => expect(Buffer.compare(a, b)).toBe(0);

describe('a file behind a URL', () => {
  test('forwards it is one request, with progress to the end', async () => {
    server.files['file'] = { bytes: large() };
    const steps: FetchProgress[] = [];
    const source = await openUrl(url(), { cache: null, onProgress: (p) => steps.push(p) });
    expect(source.size).toBe(SIZE);
    equal(await readWhole(source), large());
    expect(gets().map(({ range }) => range)).toEqual([null]);
    expect(steps.map(({ loaded }) => loaded / CHUNK_BYTES)).toEqual([1, 2, 3, 3.5]);
    expect(steps.at(-1)).toEqual({ loaded: SIZE, cached: 0, total: SIZE });
    await source.close?.();
  });

  test('a part in the middle is a request of its own, and nothing before it comes', async () => {
    server.files['file'] = { bytes: large() };
    const source = await openUrl(url(), { cache: null });
    const at = 3 * CHUNK_BYTES + 5;
    equal(await source.read(at, at + 100), large().subarray(at, at + 100));
    expect(gets().map(({ range }) => range)).toEqual([`bytes=${3 * CHUNK_BYTES}-`]);
    equal(await source.read(CHUNK_BYTES - 3, CHUNK_BYTES + 3), large().subarray(CHUNK_BYTES - 3, CHUNK_BYTES + 3));
    await source.close?.();
  });

  test('a server without ranges or HEAD is read from the beginning', async () => {
    server.files['file'] = { bytes: large(), ranges: false, head: false };
    const source = await openUrl(url(), { cache: null });
    const at = 2 * CHUNK_BYTES;
    equal(await source.read(at, at + 9), large().subarray(at, at + 9));
    equal(await source.read(0, 9), large().subarray(0, 9));
    expect(gets().every(({ range }) => range === null)).toBe(true);
    await source.close?.();
  });

  test('an archive from such a server is fetched once, whatever order it is read in', async () => {
    const data = new Float32Array((2.2 * CHUNK_BYTES) / 4);
    data[data.length - 1] = 7;
    const tensor = op.tensor(op.storage('FloatStorage', '0', data.length), 0, [data.length], [1]);
    server.files['file'] = { bytes: archive(op.dict({ w: tensor }), { 0: data }), ranges: false };
    const open = await openCheckpoint(await openUrl(url(), { cache: null }));
    const bytes = new Uint8Array(4 * data.length);
    await open.readInto('w', bytes);
    equal(bytes, new Uint8Array(data.buffer));
    // Its first chunk tells that it is an archive; the end is read after it.
    expect(gets().length).toBe(1);
    await open.close();
  });

  test('where the connection breaks off, it goes on from there', async () => {
    server.files['file'] = { bytes: large(), breaks: [1.5 * CHUNK_BYTES, 1000, 1.2 * CHUNK_BYTES] };
    const source = await openUrl(url(), { cache: null });
    equal(await readWhole(source), large());
    expect(gets().map(({ range }) => range)).toEqual([
      null,
      `bytes=${CHUNK_BYTES}-`,
      `bytes=${CHUNK_BYTES}-`,
      `bytes=${2 * CHUNK_BYTES}-`,
    ]);
    await source.close?.();
  });

  test('a server that always breaks off is given up', async () => {
    server.files['file'] = { bytes: large(), breaks: Array(20).fill(1000) };
    const source = await openUrl(url(), { cache: null });
    await expect(source.read(0, 10)).rejects.toThrow(/the download broke off 4 times/);
    expect(gets().length).toBe(4);
    await source.close?.();
  });

  test.each<[string, object, RegExp]>([
    ['404', { status: 404 }, /the server answers 404/],
    ['500', { status: 500 }, /the server answers 500/],
    ['no size', { length: false }, /does not tell the file’s size; it should send Content-Length/],
  ])('a server that says %s is a typed error', async (_what, more, message) => {
    server.files['file'] = { bytes: large(), ...more };
    await expect(openUrl(url(), { cache: null })).rejects.toThrow(message);
    await expect(openUrl(url(), { cache: null })).rejects.toBeInstanceOf(CheckpointError);
  });

  test('an abort stops the download with the signal’s own reason', async () => {
    server.files['file'] = { bytes: large(), pace: 64 * 1024 };
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('no more'));
    const source = await openUrl(url(), { cache: null, signal: controller.signal, onProgress });
    await expect(readWhole(source)).rejects.toThrow('no more');
    await expect(source.read(0, 1)).rejects.toThrow('no more');
    expect(gets()[0]!.sent).toBeLessThan(SIZE);
    await expect(openUrl(url(), { cache: null, signal: controller.signal })).rejects.toThrow('no more');
  });

  test('a file that changes while it is read is noticed', async () => {
    server.files['file'] = { bytes: large(), etag: '"one"' };
    const source = await openUrl(url(), { cache: null });
    await source.read(3 * CHUNK_BYTES, SIZE);
    server.files['file'] = { bytes: large(1), etag: '"two"' };
    for (const chunk of [1, 0]) {
      const at = chunk * CHUNK_BYTES;
      const same = await source.read(at, at + 9).then(
        () => 'read',
        (error: Error) => error.message,
      );
      expect(same).toMatch(/has changed while it was read/);
    }
    await source.close?.();
  });
});

describe('the cache', () => {
  const fresh = () => {
    const files = new Map<string, Uint8Array<ArrayBuffer>>();
    return { files, cache: new CheckpointCache(memoryBlobs(files)) };
  };
  const chunkOf = (files: Map<string, Uint8Array>, index: number) =>
    [...files].find(([key]) => key.endsWith(`/${index}`))!;

  test('the second time nothing is downloaded', async () => {
    const { cache } = fresh();
    server.files['file'] = { bytes: large(), etag: '"one"' };
    equal(await readWhole(await openUrl(url(), { cache })), large());
    server.log.length = 0;
    const steps: FetchProgress[] = [];
    equal(await readWhole(await openUrl(url(), { cache, onProgress: (p) => steps.push(p) })), large());
    expect(server.log.map(({ method }) => method)).toEqual(['HEAD']);
    expect(steps.at(-1)).toEqual({ loaded: SIZE, cached: SIZE, total: SIZE });
  });

  test('an interrupted download goes on where it stopped', async () => {
    const { cache } = fresh();
    server.files['file'] = { bytes: large(), etag: '"one"' };
    const controller = new AbortController();
    const stop = ({ loaded }: FetchProgress) => loaded >= 2 * CHUNK_BYTES && controller.abort(new Error('closed'));
    await expect(
      readWhole(await openUrl(url(), { cache, signal: controller.signal, onProgress: stop })),
    ).rejects.toThrow('closed');
    server.log.length = 0;
    equal(await readWhole(await openUrl(url(), { cache })), large());
    expect(gets().map(({ range }) => range)).toEqual([`bytes=${2 * CHUNK_BYTES}-`]);
  });

  test.each<[string, (stored: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>]>([
    ['a flipped bit', (stored) => stored.map((byte, i) => (i === 1_000_000 ? byte ^ 4 : byte))],
    ['a flipped bit of the hash', (stored) => stored.map((byte, i) => (i === 3 ? byte ^ 4 : byte))],
    ['a lost end', (stored) => stored.slice(0, -100)],
    ['nothing left', () => new Uint8Array(0)],
  ])('%s in a chunk is noticed, and the chunk is fetched again', async (_what, damage) => {
    const { cache, files } = fresh();
    server.files['file'] = { bytes: large(), etag: '"one"' };
    await readWhole(await openUrl(url(), { cache }));
    const [key, stored] = chunkOf(files, 1);
    files.set(key, damage(stored as Uint8Array<ArrayBuffer>));
    server.log.length = 0;
    const source = await openUrl(url(), { cache });
    equal(await readWhole(source), large());
    expect(gets().map(({ range }) => range)).toEqual([`bytes=${CHUNK_BYTES}-`]);
    await source.close?.();
    equal(chunkOf(files, 1)[1], stored);
  });

  test('another version on the server replaces what is stored', async () => {
    const { cache, files } = fresh();
    server.files['file'] = { bytes: large(), etag: '"one"' };
    await readWhole(await openUrl(url(), { cache }));
    server.files['file'] = { bytes: large(5), etag: '"two"' };
    equal(await readWhole(await openUrl(url(), { cache })), large(5));
    expect(files.size).toBe(1 + 4);
  });

  test('without a network it is enough, if it is whole', async () => {
    const { cache } = fresh();
    const other = await serveFiles({ file: { bytes: large() } });
    await readWhole(await openUrl(`${other.origin}/file`, { cache }));
    other.close();
    equal(await readWhole(await openUrl(`${other.origin}/file`, { cache })), large());
    await expect(openUrl(`${other.origin}/another`, { cache })).rejects.toThrow(TypeError);
  });

  test('it can be cleared: one file, or all', async () => {
    const { cache, files } = fresh();
    for (const name of ['a', 'b', 'c']) {
      server.files[name] = { bytes: large().subarray(0, 1000) };
      await readWhole(await openUrl(`${server.origin}/${name}`, { cache }));
    }
    expect(files.size).toBe(6);
    await cache.remove(`${server.origin}/b`);
    expect(files.size).toBe(4);
    expect(await cache.manifest(`${server.origin}/b`)).toBeNull();
    expect(await cache.manifest(`${server.origin}/a`)).toMatchObject({ size: 1000 });
    await cache.clear();
    expect(files.size).toBe(0);
  });

  test('where there is no room, the download goes on without it', async () => {
    const blobs = memoryBlobs();
    let written = 0;
    const full = new CheckpointCache({
      ...blobs,
      put: async (folder, name, bytes) => {
        if (++written > 2) throw new DOMException('no room', 'QuotaExceededError');
        await blobs.put(folder, name, bytes);
      },
    });
    server.files['file'] = { bytes: large() };
    equal(await readWhole(await openUrl(url(), { cache: full })), large());
    expect(written).toBe(3);
  });
});

describe('a model', () => {
  test('from a URL makes the pictures that it makes from memory; once packed, it needs the server no more', async () => {
    const runtime = await testRuntime();
    const bytes = readFileSync(UNET_FILE);
    server.files['file'] = { bytes };
    const steps: FetchProgress[] = [];
    const model = await fetchModel(runtime, url(), { cache: null, onProgress: (p) => steps.push(p) });
    expect(steps.at(-1)).toEqual({ loaded: bytes.length, cached: 0, total: bytes.length });
    expect(model.weights.bytes).toBeGreaterThan(4 * 1_371_650);
    delete server.files['file'];
    const memory = loadModel(runtime, bytes);
    if (!model.isUNet() || !memory.isUNet()) throw new Error('no U-Net');
    const options = { labels: [3], respacing: 'ddim5', seed: 2, guidance: noGuidance({ conditional: true }) };
    const fetched = await sample(runtime, { unet: model, ...options });
    const loaded = await sample(runtime, { unet: memory, ...options });
    expect([...fetched.samples]).toEqual([...loaded.samples]);
    model.dispose();
    memory.dispose();
  });

  test('that is cut short, aborted or no model leaves nothing on the device', async () => {
    const runtime = await testRuntime();
    server.files['file'] = { bytes: readFileSync(UNET_FILE), breaks: [2_000_000, 1000, 1000, 1000, 1000, 1000] };
    await expect(fetchModel(runtime, url(), { cache: null })).rejects.toThrow(/broke off/);
    expect(runtime.buffers.liveBytes).toBe(0);
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('enough'));
    server.files['file'] = { bytes: readFileSync(UNET_FILE) };
    await expect(fetchModel(runtime, url(), { cache: null, signal: controller.signal, onProgress })).rejects.toThrow(
      'enough',
    );
    server.files['file'] = { bytes: writeSafetensors({ a: { dtype: 'F32', shape: [1], data: new Float32Array(1) } }) };
    await expect(fetchModel(runtime, url(), { cache: null })).rejects.toThrow(/does not describe its model/);
    expect(runtime.buffers.liveBytes).toBe(0);
  });
});
