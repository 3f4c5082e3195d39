/** @file The models this page brings, and their download with exact progress. */
import classifierBytes from '../weights/fashion-mnist-classifier.safetensors?bytes';
import classifierUrl from '../weights/fashion-mnist-classifier.safetensors?url';
import unetBytes from '../weights/fashion-mnist-unet.safetensors?bytes';
import unetUrl from '../weights/fashion-mnist-unet.safetensors?url';

export interface ShippedFile {
  readonly name: string;
  readonly url: string;
  /** Its size, known when the page is built: a server may compress, and then its content-length is another. */
  readonly bytes: number;
}

export interface ShippedModel {
  readonly id: string;
  readonly title: string;
  /** Known before the file is here, so that the settings can be shown at once. */
  readonly classes: readonly string[];
  readonly shape: { readonly c: number; readonly h: number; readonly w: number };
  readonly unet: ShippedFile;
  readonly classifier: ShippedFile;
}

export const SHIPPED: readonly ShippedModel[] = [
  {
    id: 'fashion-mnist',
    title: 'Fashion-MNIST, 28×28',
    classes: ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'],
    shape: { c: 1, h: 28, w: 28 },
    unet: { name: 'fashion-mnist-unet', url: unetUrl, bytes: unetBytes },
    classifier: { name: 'fashion-mnist-classifier', url: classifierUrl, bytes: classifierBytes },
  },
];

export const shippedModel = (id: string): ShippedModel => SHIPPED.find((model) => model.id === id) ?? SHIPPED[0]!;

/**
 * @param onBytes called with how many bytes of the file are here
 * @throws Error naming the file and what the server said
 */
export async function download(
  { name, url, bytes }: ShippedFile,
  signal: AbortSignal,
  onBytes: (received: number) => void,
): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error(`${name} could not be fetched: the server did not answer. Check the connection, then try again`);
  }
  if (!response.ok || !response.body) {
    throw new Error(`${name} could not be fetched: the server answered ${response.status} ${response.statusText}`);
  }
  const whole = new Uint8Array(bytes);
  let at = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length <= bytes) whole.set(value, at);
    at += value.length;
    onBytes(Math.min(at, bytes));
  }
  if (at !== bytes) {
    throw new Error(`${name} should have ${bytes} bytes, found ${at}: the page and its models are of different builds`);
  }
  return whole.buffer;
}
