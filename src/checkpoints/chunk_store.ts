/**
 * @file Checkpoints kept in the browser: in chunks, each with its SHA-256 before it, so that one that was damaged is
 * noticed, an interrupted download goes on where it stopped, and any part is read without the rest.
 *
 * Where they lie: in the origin's private file system, else in the Cache API. Both exist on secure pages only, as does the
 * hash function.
 */

/** Named bytes in folders. What stores differ in is this. */
export interface BlobStore {
  /** null if there is none. */
  get(folder: string, name: string): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Whole or not at all. @throws if there is no room */
  put(folder: string, name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  remove(folder: string): Promise<void>;
  folders(): Promise<string[]>;
}

/** What is known of a stored file. */
export interface Manifest {
  readonly url: string;
  readonly size: number;
  /** ETag or Last-Modified, whichever the server gave; "" for neither. */
  readonly validator: string;
  readonly chunkBytes: number;
}

/** 4 MiB: large enough that requests cost nothing beside it, small enough to be thrown away. */
export const CHUNK_BYTES = 4 * 2 ** 20;

const HASH_BYTES = 32;
const MANIFEST = 'manifest.json';

const sha256 = async (bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));

/** One cached file. */
export interface CacheEntry {
  /** A chunk, or null if it is not there, or not what was stored. */
  read(index: number): Promise<Uint8Array<ArrayBuffer> | null>;
  write(index: number, bytes: Uint8Array): Promise<void>;
  remove(): Promise<void>;
}

/** A cache of checkpoints by URL. */
export class CheckpointCache {
  readonly #blobs: BlobStore;

  constructor(blobs: BlobStore) {
    this.#blobs = blobs;
  }

  /** What is stored of a URL, or null. */
  async manifest(url: string): Promise<Manifest | null> {
    const bytes = await this.#blobs.get(await folderOf(url), MANIFEST);
    if (!bytes) return null;
    try {
      const json = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Manifest>;
      const { size, validator, chunkBytes } = json;
      const sound = Number.isSafeInteger(size) && typeof validator === 'string' && chunkBytes === CHUNK_BYTES;
      return sound && json.url === url ? (json as Manifest) : null;
    } catch {
      return null;
    }
  }

  /** The entry of a file. What is stored of another version of it is removed. */
  async entry(manifest: Manifest): Promise<CacheEntry> {
    const folder = await folderOf(manifest.url);
    const before = await this.manifest(manifest.url);
    if (before?.size !== manifest.size || before.validator !== manifest.validator) {
      await this.#blobs.remove(folder);
      await this.#blobs.put(folder, MANIFEST, new TextEncoder().encode(JSON.stringify(manifest)));
    }
    return {
      read: async (index) => {
        const stored = await this.#blobs.get(folder, String(index));
        const length = Math.min(CHUNK_BYTES, manifest.size - index * CHUNK_BYTES);
        if (stored?.byteLength !== HASH_BYTES + length) return null;
        const bytes = stored.subarray(HASH_BYTES);
        const hash = await sha256(bytes);
        return hash.every((byte, i) => byte === stored[i]) ? bytes : null;
      },
      write: async (index, bytes) => {
        const stored = new Uint8Array(HASH_BYTES + bytes.byteLength);
        stored.set(bytes, HASH_BYTES);
        stored.set(await sha256(stored.subarray(HASH_BYTES)));
        await this.#blobs.put(folder, String(index), stored);
      },
      remove: () => this.#blobs.remove(folder),
    };
  }

  /** Removes what is stored of a URL. */
  async remove(url: string): Promise<void> {
    await this.#blobs.remove(await folderOf(url));
  }

  /** Removes everything. */
  async clear(): Promise<void> {
    for (const folder of await this.#blobs.folders()) await this.#blobs.remove(folder);
  }
}

/** A name without characters that a file system could mind. */
async function folderOf(url: string): Promise<string> {
  const hash = await sha256(new TextEncoder().encode(url));
  return [...hash.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

const HOME = 'pilotwave-checkpoints';

/** The browser's own cache: null where it has none, or the page is not secure. */
export async function browserCache(): Promise<CheckpointCache | null> {
  if (!globalThis.crypto?.subtle) return null;
  const blobs = (await privateFiles()) ?? (await cacheApi());
  return blobs && new CheckpointCache(blobs);
}

/** The origin's private file system. */
export async function privateFiles(): Promise<BlobStore | null> {
  if (typeof FileSystemFileHandle === 'undefined' || !('createWritable' in FileSystemFileHandle.prototype)) return null;
  let home: FileSystemDirectoryHandle;
  try {
    home = await (await navigator.storage.getDirectory()).getDirectoryHandle(HOME, { create: true });
  } catch {
    return null; // private windows of some browsers have the interface, and refuse
  }
  const missing = (error: unknown): null => {
    if (error instanceof DOMException && error.name === 'NotFoundError') return null;
    throw error;
  };
  return {
    async get(folder, name) {
      try {
        const handle = await (await home.getDirectoryHandle(folder)).getFileHandle(name);
        return new Uint8Array(await (await handle.getFile()).arrayBuffer());
      } catch (error) {
        return missing(error);
      }
    },
    async put(folder, name, bytes) {
      const handle = await (await home.getDirectoryHandle(folder, { create: true })).getFileHandle(name, {
        create: true,
      });
      const stream = await handle.createWritable();
      try {
        await stream.write(bytes);
        await stream.close();
      } catch (error) {
        await stream.abort().catch(() => {});
        throw error;
      }
    },
    remove: (folder) => home.removeEntry(folder, { recursive: true }).catch((error: unknown) => void missing(error)),
    async folders() {
      const names: string[] = [];
      for await (const name of (home as unknown as { keys(): AsyncIterable<string> }).keys()) names.push(name);
      return names;
    },
  };
}

/** The Cache API, its requests being names and nothing more. */
export async function cacheApi(): Promise<BlobStore | null> {
  if (typeof caches === 'undefined') return null;
  let cache: Cache;
  try {
    cache = await caches.open(HOME);
  } catch {
    return null;
  }
  const base = `https://${HOME}.invalid/`;
  return {
    async get(folder, name) {
      const response = await cache.match(`${base}${folder}/${name}`);
      return response ? new Uint8Array(await response.arrayBuffer()) : null;
    },
    put: (folder, name, bytes) => cache.put(`${base}${folder}/${name}`, new Response(bytes)),
    async remove(folder) {
      for (const request of await cache.keys())
        if (request.url.startsWith(`${base}${folder}/`)) await cache.delete(request);
    },
    async folders() {
      return [...new Set((await cache.keys()).map(({ url }) => url.slice(base.length).split('/')[0]!))];
    },
  };
}

/** Blobs in memory: for tests, and for programs in Node that bring a store of their own. */
export function memoryBlobs(files: Map<string, Uint8Array<ArrayBuffer>> = new Map()): BlobStore {
  return {
    get: async (folder, name) => files.get(`${folder}/${name}`)?.slice() ?? null,
    put: async (folder, name, bytes) => void files.set(`${folder}/${name}`, bytes.slice()),
    async remove(folder) {
      for (const key of [...files.keys()]) if (key.startsWith(`${folder}/`)) files.delete(key);
    },
    folders: async () => [...new Set([...files.keys()].map((key) => key.split('/')[0]!))],
  };
}
