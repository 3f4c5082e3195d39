/**
 * @file The adapter that a command runs on.
 */
import { type AdapterChoice, type NodeDevice, requestNodeDevice } from '../node/device.ts';
import { fileStore } from '../node/tuning_store.ts';
import { Runtime, type RuntimeOptions } from '../runtime/device.ts';
import { describeAdapterLine } from './console.ts';

/**
 * Finds the adapter, says on standard error which it is, and makes a runtime that keeps what it measures between commands.
 *
 * @throws DeviceError if there is none
 */
export async function openAdapter(
  choice: AdapterChoice,
  options: RuntimeOptions = { tuning: { store: fileStore() } },
): Promise<{ readonly found: NodeDevice; readonly runtime: Runtime }> {
  const experimental = options.accuracy === 'reduced' || options.variants !== undefined;
  const found = await requestNodeDevice(choice, { experimental });
  console.error(describeAdapterLine(found));
  return { found, runtime: new Runtime(found.device, options) };
}
