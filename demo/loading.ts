/** @file The shipped models on their way here: fetched once, with a row a file. */
import { download, type ShippedFile, type ShippedModel } from './models.ts';
import { make } from './shell/dom.ts';
import { bytes } from './shell/words.ts';

export interface Received {
  readonly files: readonly ShippedFile[];
  /** Bytes of each that are here. */
  readonly received: readonly number[];
}

export class ModelFiles {
  readonly #kept = new Map<string, ArrayBuffer>();

  /** U-Net and classifier. What was fetched before is not fetched again. */
  async fetch(
    { unet, classifier }: ShippedModel,
    signal: AbortSignal,
    onProgress: (state: Received) => void,
  ): Promise<[ArrayBuffer, ArrayBuffer]> {
    const files = [unet, classifier];
    const received = files.map(({ name, bytes: size }) => (this.#kept.has(name) ? size : 0));
    onProgress({ files, received });
    const [first, second] = await Promise.all(
      files.map(async (file, i) => {
        const kept = this.#kept.get(file.name);
        if (kept) return kept;
        const data = await download(file, signal, (count) => {
          received[i] = count;
          onProgress({ files, received });
        });
        this.#kept.set(file.name, data);
        return data;
      }),
    );
    return [first!, second!];
  }
}

export const shareOf = ({ files, received }: Received): { done: number; total: number } => ({
  done: received.reduce((a, b) => a + b, 0),
  total: files.reduce((sum, file) => sum + file.bytes, 0),
});

export function drawLoading(host: HTMLElement, { files, received }: Received): void {
  host.replaceChildren(
    make(
      'ul',
      { class: 'loads' },
      ...files.map((file, i) => {
        const share = received[i]! / file.bytes;
        const bar = make('i');
        bar.style.width = `${100 * share}%`;
        const state = share === 1 ? bytes(file.bytes) : `${bytes(received[i]!)} of ${bytes(file.bytes)}`;
        return make(
          'li',
          {},
          make('span', { class: 'mono' }, file.name),
          make('span', { class: 'meter' }, bar),
          make('span', {}, state),
        );
      }),
    ),
  );
}
