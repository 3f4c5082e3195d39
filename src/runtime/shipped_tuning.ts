/**
 * @file Tables of measured variants made beforehand, and where a browser keeps those it measures itself.
 *
 * A table is what `pilotwave tune --table` writes. A software adapter is always served by one; a GPU begins with one and
 * measures what it does not hold.
 */
import h200 from './tuned/h200.json' with { type: 'json' };
import llvmpipe from './tuned/llvmpipe.json' with { type: 'json' };
import swiftshader from './tuned/swiftshader.json' with { type: 'json' };
import type { TuningStore, TuningTable } from './tuning.ts';

/** Adapters that were measured, by a part of what they say of themselves. */
const TABLES: readonly { readonly adapter: RegExp; readonly table: TuningTable }[] = [
  { adapter: /swiftshader/i, table: swiftshader },
  { adapter: /llvmpipe/i, table: llvmpipe },
  // Of few shapes yet, measured one by one; the nearest serve the others.
  { adapter: /nvidia-h200|NVIDIA H200/i, table: h200 },
];

/** The table for an adapter; undefined if none was made. */
export function shippedTable({ vendor, architecture, device, description }: GPUAdapterInfo): TuningTable | undefined {
  const name = [vendor, architecture, device, description].join(' ');
  return TABLES.find(({ adapter }) => adapter.test(name))?.table;
}

const PREFIX = 'pilotwave tuning ';

/** The page's local storage; nothing where there is none, or where it is forbidden. */
export function browserStore(): TuningStore | undefined {
  const storage = () => globalThis.localStorage as Storage | undefined;
  try {
    if (typeof window === 'undefined' || !storage()) return undefined;
  } catch {
    return undefined;
  }
  return {
    read: async (adapter) => {
      try {
        return storage()?.getItem(PREFIX + adapter) ?? null;
      } catch {
        return null;
      }
    },
    write: async (adapter, text) => {
      try {
        storage()?.setItem(PREFIX + adapter, text);
      } catch {
        // A full store only means that it is measured again.
      }
    },
  };
}
