/** @file Node through dawn.node (the npm package "webgpu"): a child process for each contestant and case. */
import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { browserDriver } from '../../../src/node/vulkan.ts';
import type { Host, Seat } from './host.ts';
import type { Reply, Request } from './node_child.ts';
import { bundles, modules } from './places.ts';

/** @param adapter "swiftshader" for the one inside a browser, "" for Dawn's choice, else a part of an adapter's name */
export function nodeHost(adapter: string): Host {
  // Mesa keeps compiled shaders on disk, so that a first call would be the first only once.
  const env: NodeJS.ProcessEnv = { XDG_RUNTIME_DIR: tmpdir(), MESA_SHADER_CACHE_DISABLE: 'true', ...process.env };
  const dawn: string[] = [];
  if (adapter === 'swiftshader') {
    const driver = browserDriver();
    if (!driver) throw new Error('no SwiftShader found: it comes with Chrome or Chromium');
    env['VK_DRIVER_FILES'] = driver.icd;
  } else if (adapter !== '') dawn.push(`adapter=${adapter}`);
  const { version } = JSON.parse(readFileSync(join(modules, 'webgpu', 'package.json'), 'utf8')) as { version: string };
  let seats: Seat[] = [];
  const endCase = async () => {
    await Promise.all(seats.map((seat) => seat.close()));
    seats = [];
  };
  return {
    name: `Node ${process.versions.node}, webgpu ${version}`,
    modulesUrl: `${pathToFileURL(modules).href}/`,
    urlOf: (file) => pathToFileURL(file).href,
    beginCase: async () => {},
    async seat(bundle) {
      const child = fork(join(bundles, 'node_child.mjs'), [JSON.stringify(dawn)], { env, execArgv: ['--expose-gc'] });
      const seat = seatOf(child);
      seats.push(seat);
      await seat.load(pathToFileURL(join(bundles, bundle)).href);
      return seat;
    },
    endCase,
    close: endCase,
  };
}

function seatOf(child: ChildProcess): Seat & { load(url: string): Promise<void> } {
  let settle: { resolve(value: unknown): void; reject(error: Error): void } | null = null;
  child.on('message', ({ error, result }: Reply) => {
    if (error !== undefined) settle?.reject(new Error(error));
    else settle?.resolve(result);
    settle = null;
  });
  const gone = new Promise<void>((resolve) => {
    child.on('exit', (code, signal) => {
      settle?.reject(new Error(`the process ended with ${signal ?? code}`));
      resolve();
    });
  });
  const call = <T>(method: string, ...args: unknown[]) =>
    new Promise<T>((resolve, reject) => {
      settle = { resolve: resolve as (value: unknown) => void, reject };
      if (child.exitCode !== null) reject(new Error('the process has ended'));
      else child.send({ method, args } satisfies Request);
    });
  return {
    load: (url) => call('load', url),
    start: (...args) => call('start', ...args),
    warmUp: () => call('warmUp'),
    round: (...args) => call('round', ...args),
    async close() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
      await gone;
    },
  };
}
