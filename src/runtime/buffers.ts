/**
 * @file The only place that creates and destroys buffers, so that the number of live bytes is always known.
 */
import { DeviceError } from './errors.ts';

export class Buffers {
  readonly #device: GPUDevice;
  readonly #live = new Map<GPUBuffer, number>();
  #liveBytes = 0;
  #peakBytes = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Bytes of all buffers that exist now. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  /** The largest value `liveBytes` has had. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** @throws DeviceError "limit" if the device allows no buffer of that size. */
  create(label: string, size: number, usage: GPUBufferUsageFlags, mappedAtCreation = false): GPUBuffer {
    const { maxBufferSize } = this.#device.limits;
    if (size > maxBufferSize) {
      throw new DeviceError('limit', `${label} needs a buffer of ${size} bytes; this device allows ${maxBufferSize}`);
    }
    const buffer = this.#device.createBuffer({ label, size, usage, mappedAtCreation });
    this.#live.set(buffer, size);
    this.#liveBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
    return buffer;
  }

  destroy(buffer: GPUBuffer): void {
    const size = this.#live.get(buffer);
    if (size === undefined) return;
    this.#live.delete(buffer);
    this.#liveBytes -= size;
    buffer.destroy();
  }

  dispose(): void {
    for (const buffer of [...this.#live.keys()]) this.destroy(buffer);
  }
}
