/** @file A web server for tests that serves bytes from memory, and misbehaves on demand. */
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Served {
  bytes: Uint8Array;
  etag?: string;
  ranges?: boolean;
  head?: boolean;
  /** Breaks the connection off after so many bytes of a response; once for each entry. */
  breaks?: number[];
  /** Bytes sent at a time, with a pause after each: a slow network. */
  pace?: number;
  status?: number;
  length?: boolean;
}

export interface FileServer {
  readonly origin: string;
  readonly files: Record<string, Served>;
  /** Requests so far: method, range, and bytes sent. */
  readonly log: { method: string; range: string | null; sent: number }[];
  close(): void;
}

export async function serveFiles(files: Record<string, Served>): Promise<FileServer> {
  const log: FileServer['log'] = [];
  const server: Server = createServer(async (request, response) => {
    const file = files[(request.url ?? '/').split('?')[0]!.slice(1)];
    const entry = { method: request.method ?? '', range: request.headers.range ?? null, sent: 0 };
    log.push(entry);
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('access-control-expose-headers', 'etag, content-range, accept-ranges');
    response.setHeader('access-control-allow-headers', '*');
    if (request.method === 'OPTIONS') return response.writeHead(204).end();
    if (!file) return response.writeHead(404).end();
    if (file.status !== undefined) return response.writeHead(file.status).end();
    if (request.method === 'HEAD' && file.head === false) return response.writeHead(405).end();
    if (file.etag !== undefined) response.setHeader('etag', file.etag);
    const ranges = file.ranges ?? true;
    response.setHeader('accept-ranges', ranges ? 'bytes' : 'none');
    const { size, from } = { size: file.bytes.length, from: ranges ? rangeStart(entry.range) : 0 };
    const same = request.headers['if-range'] === undefined || request.headers['if-range'] === file.etag;
    const start = same ? from : 0;
    if (file.length !== false) response.setHeader('content-length', size - start);
    if (start > 0) response.setHeader('content-range', `bytes ${start}-${size - 1}/${size}`);
    response.writeHead(start > 0 ? 206 : 200);
    if (request.method === 'HEAD') return response.end();
    const limit = file.breaks?.shift() ?? Number.POSITIVE_INFINITY;
    for (let at = start; at < size; ) {
      const piece = file.bytes.subarray(at, Math.min(size, at + (file.pace ?? 256 * 1024), start + limit));
      if (piece.length === 0 || response.destroyed) break;
      const more = response.write(piece);
      at += piece.length;
      entry.sent += piece.length;
      if (!more) await drained(response);
      if (file.pace !== undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return entry.sent < size - start ? response.destroy() : response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    files,
    log,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

const rangeStart = (range: string | null): number => Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1] ?? 0);

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}
