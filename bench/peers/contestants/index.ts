/** @file Who there is to measure. */
export interface Entry {
  /** The module, from this folder or absolute. */
  readonly module: string;
  readonly options?: Readonly<Record<string, unknown>>;
  /** Measured only when named. */
  readonly onlyIfNamed?: boolean;
}

export const ENTRIES: Readonly<Record<string, Entry>> = {
  pilotwave: { module: 'pilotwave.ts' },
  jax: { module: 'jax.ts' },
  tfjs: { module: 'tfjs.ts' },
  ort: { module: 'ort.ts' },
  /** Not a peer: measures what the adapter itself can do. */
  adapter: { module: 'adapter.ts' },
  'ort-wasm': { module: 'ort.ts', options: { provider: 'wasm' }, onlyIfNamed: true },
};
