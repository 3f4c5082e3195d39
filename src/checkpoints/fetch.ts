/**
 * @file Checkpoints behind a URL: read by ranges or as a stream, through a cache, and packed on the GPU as they arrive.
 *
 * A file is chunks (chunk_store.ts). A chunk comes from the cache, from the response that is open if it is the next one
 * in it, or from a new request that begins with it. Reading forwards therefore takes one request, and what waits in memory
 * is a chunk or two. What a model needs is asked for in the order in which it lies in the file.
 */
import type { Runtime } from '../runtime/device.ts';
import { CheckpointError } from '../runtime/errors.ts';
import { browserCache, type CacheEntry, CHUNK_BYTES, type CheckpointCache } from './chunk_store.ts';
import { demandOf } from './demand.ts';
import { type LoadOptions, type Model, openModel } from './model.ts';
import { looksLikePytorch } from './pytorch.ts';
import { openCheckpoint } from './read.ts';
import type { ByteSource } from './source.ts';

export interface FetchProgress {
  /** Bytes of the file that were read so far, from the network or the cache. */
  readonly loaded: number;
  /** Of these, bytes that came from the cache. */
  readonly cached: number;
  /** Bytes of the file. */
  readonly total: number;
}

export interface FetchOptions {
  readonly onProgress?: (progress: FetchProgress) => void;
  /** Stops the download. The model cannot read on afterwards. */
  readonly signal?: AbortSignal;
  /** Where chunks are kept; the browser's own by default, and null for nowhere. */
  readonly cache?: CheckpointCache | null;
  /** Headers of every request: credentials, for example. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Times that a response may break off without a byte having come. */
const MAX_FAILURES = 3;

/**
 * Opens a file behind a URL. What is asked of it is fetched then, and once.
 *
 * @throws CheckpointError if the server has no such file, or breaks off too often; the signal's reason if it is aborted
 */
export async function openUrl(url: string | URL, options: FetchOptions = {}): Promise<ByteSource> {
  const address = new URL(url, globalThis.location?.href);
  address.hash = '';
  const cache = options.cache === undefined ? await browserCache() : options.cache;
  const known = (await cache?.manifest(address.href)) ?? null;
  let found: FileFacts;
  try {
    found = await askServer(address.href, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    // Without a network, what is cached is used; a server that answers "no" is believed.
    if (!known || error instanceof CheckpointError) throw error;
    found = { size: known.size, validator: known.validator, ranges: true };
  }
  const { size, validator } = found;
  const entry = cache
    ? await cache.entry({ url: address.href, size, validator, chunkBytes: CHUNK_BYTES }).catch(() => null)
    : null;
  return new ChunkedFile(address.href, found, entry, options);
}

interface FileFacts {
  readonly size: number;
  readonly validator: string;
  readonly ranges: boolean;
}

async function askServer(url: string, { headers = {}, signal }: FetchOptions): Promise<FileFacts> {
  const request: RequestInit = { headers, ...(signal ? { signal } : {}) };
  let response = await fetch(url, { ...request, method: 'HEAD' });
  // Some servers and signed addresses know no HEAD.
  if ([400, 403, 405, 501].includes(response.status)) {
    response = await fetch(url, request);
    void response.body?.cancel();
  }
  if (!response.ok) throw refused(url, response);
  const length = response.headers.get('content-length');
  const encoding = response.headers.get('content-encoding');
  if (length === null || !/^\d+$/.test(length) || (encoding !== null && encoding !== 'identity')) {
    throw new CheckpointError(
      `${url}: the server does not tell the file’s size${encoding ? `, since it compresses it (${encoding})` : ''}; it should send Content-Length`,
    );
  }
  return {
    size: Number(length),
    validator: validatorOf(response),
    ranges: response.headers.get('accept-ranges') !== 'none',
  };
}

const validatorOf = ({ headers }: Response): string => headers.get('etag') ?? headers.get('last-modified') ?? '';

const refused = (url: string, { status, statusText }: Response): CheckpointError =>
  new CheckpointError(`${url}: the server answers ${status}${statusText ? ` ${statusText}` : ''}`);

/** A response that is being read, and the chunk that comes next in it. */
interface OpenResponse {
  readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  next: number;
  /** Bytes that came with the last of a chunk. */
  rest: Uint8Array;
}

/** Chunks that may be skipped in an open response rather than asked for anew. */
const SKIP = 2;

class ChunkedFile implements ByteSource {
  readonly size: number;
  readonly #url: string;
  readonly #validator: string;
  readonly #options: FetchOptions;
  #entry: CacheEntry | null;
  #ranges: boolean;
  #response: OpenResponse | null = null;
  #last: { index: number; bytes: Uint8Array } | null = null;
  #kept: Map<number, Uint8Array> | null = null;
  readonly #seen = new Set<number>();
  #loaded = 0;
  #cached = 0;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(url: string, { size, validator, ranges }: FileFacts, entry: CacheEntry | null, options: FetchOptions) {
    this.#url = url;
    this.size = size;
    this.#validator = validator;
    this.#ranges = ranges;
    this.#entry = entry;
    this.#options = options;
  }

  /** Readers wait for one another: there is one response. */
  read(begin: number, end: number): Promise<Uint8Array> {
    const result = this.#turn.then(() => this.#read(begin, end));
    this.#turn = result.catch(() => {});
    return result;
  }

  async close(): Promise<void> {
    this.#drop();
    this.#last = null;
    this.#kept = null;
  }

  async #read(begin: number, end: number): Promise<Uint8Array> {
    const first = Math.floor(begin / CHUNK_BYTES);
    if (end <= (first + 1) * CHUNK_BYTES) {
      if (begin === end) return new Uint8Array(0);
      return (await this.#chunk(first)).subarray(begin - first * CHUNK_BYTES, end - first * CHUNK_BYTES);
    }
    const result = new Uint8Array(end - begin);
    for (let index = first; index * CHUNK_BYTES < end; index++) {
      const bytes = await this.#chunk(index);
      const at = index * CHUNK_BYTES;
      const part = bytes.subarray(Math.max(0, begin - at), Math.min(bytes.byteLength, end - at));
      result.set(part, Math.max(0, at - begin));
    }
    return result;
  }

  async #chunk(index: number): Promise<Uint8Array> {
    this.#options.signal?.throwIfAborted();
    if (this.#last?.index === index) return this.#last.bytes;
    let bytes = this.#kept?.get(index) ?? null;
    if (!bytes) {
      bytes = (await this.#entry?.read(index).catch(() => null)) ?? null;
      if (bytes) this.#count(index, bytes.byteLength, true);
    }
    bytes ??= await this.#download(index);
    this.#last = { index, bytes };
    return bytes;
  }

  #count(index: number, length: number, cached: boolean): void {
    if (this.#seen.has(index)) return;
    this.#seen.add(index);
    this.#loaded += length;
    if (cached) this.#cached += length;
    this.#options.onProgress?.({ loaded: this.#loaded, cached: this.#cached, total: this.size });
  }

  /** Reads on in the open response, or opens one; begins again where it breaks off. */
  async #download(index: number): Promise<Uint8Array> {
    let failures = 0;
    for (;;) {
      try {
        const open = this.#response;
        const near = open && index >= open.next && (!this.#ranges || index - open.next <= SKIP);
        if (!near) await this.#open(index);
        for (;;) {
          const at = this.#response!.next;
          const bytes = await this.#nextChunk(this.#response!);
          failures = 0;
          await this.#keep(at, bytes);
          if (at === index) return bytes;
        }
      } catch (error) {
        this.#drop();
        this.#options.signal?.throwIfAborted();
        if (error instanceof CheckpointError || ++failures > MAX_FAILURES) {
          throw error instanceof CheckpointError
            ? error
            : new CheckpointError(`${this.#url}: the download broke off ${failures} times (${error})`, {
                cause: error,
              });
        }
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** failures));
      }
    }
  }

  async #open(index: number): Promise<void> {
    this.#drop();
    const { headers = {}, signal } = this.#options;
    const from = this.#ranges ? index * CHUNK_BYTES : 0;
    // Where the file changed meanwhile, a strong validator makes the server send all of the new one.
    const strong = this.#validator.startsWith('"') ? { 'if-range': this.#validator } : {};
    const range = from > 0 ? { range: `bytes=${from}-`, ...strong } : {};
    const response = await fetch(this.#url, { headers: { ...headers, ...range }, ...(signal ? { signal } : {}) });
    if (!response.ok || !response.body) throw refused(this.#url, response);
    const whole = response.status !== 206;
    const validator = validatorOf(response);
    if (validator !== this.#validator && validator !== '' && this.#validator !== '') {
      await response.body.cancel();
      await this.#entry?.remove().catch(() => {});
      throw new CheckpointError(`${this.#url}: the file on the server has changed while it was read; open it again`);
    }
    const start = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1];
    if (!whole && start !== undefined && Number(start) !== from) {
      await response.body.cancel();
      throw new CheckpointError(
        `${this.#url}: asked for bytes from ${from} on, the server sends them from ${start} on`,
      );
    }
    if (whole && from > 0) this.#ranges = false;
    this.#response = { reader: response.body.getReader(), next: whole ? 0 : index, rest: new Uint8Array(0) };
  }

  async #nextChunk(open: OpenResponse): Promise<Uint8Array> {
    const length = Math.min(CHUNK_BYTES, this.size - open.next * CHUNK_BYTES);
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      if (open.rest.byteLength === 0) {
        const { done, value } = await open.reader.read();
        if (done) throw new Error(`it ended after ${open.next * CHUNK_BYTES + filled} of ${this.size} bytes`);
        open.rest = value;
      }
      const part = open.rest.subarray(0, length - filled);
      bytes.set(part, filled);
      filled += part.byteLength;
      open.rest = open.rest.subarray(part.byteLength);
    }
    open.next++;
    return bytes;
  }

  async #keep(index: number, bytes: Uint8Array): Promise<void> {
    this.#count(index, bytes.byteLength, false);
    try {
      await this.#entry?.write(index, bytes);
    } catch {
      this.#entry = null; // no room: the download goes on without a cache
    }
    // An archive is read from its end. Where neither server nor cache give parts again, they stay in memory, once.
    if (index === 0 && !this.#entry && !this.#ranges && looksLikePytorch(bytes)) this.#kept = new Map();
    this.#kept?.set(index, bytes);
  }

  #drop(): void {
    void this.#response?.reader.cancel().catch(() => {});
    this.#response = null;
  }
}

export interface FetchModelOptions extends FetchOptions, LoadOptions {
  /**
   * Whether all parameters go to the device now (the default), as they arrive: those of a forward pass, of a classifier
   * also those of its gradient. Otherwise they are fetched when a plan first needs them.
   */
  readonly preload?: boolean;
}

/**
 * Fetches a model, safetensors or PyTorch. No more than a few chunks of the file are in memory at a time.
 *
 * @throws CheckpointError as `openUrl` and `loadModel`; the signal's reason if it is aborted
 */
export async function fetchModel(runtime: Runtime, url: string | URL, options: FetchModelOptions = {}): Promise<Model> {
  const source = await openUrl(url, options);
  let model: Model | null = null;
  try {
    const file = await openCheckpoint(source, options);
    model = openModel(runtime, file, options.config, options);
    if (options.preload ?? true) {
      await model.weights.pack(demandOf(model.config, { target: runtime.target, weights: model.weights }).packed);
    }
    return model;
  } catch (error) {
    model?.dispose();
    await source.close?.();
    throw error;
  }
}
