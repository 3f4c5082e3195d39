/** @file Once before all tests: says on which adapter they run. */
import { describeAdapterLine } from '../src/cli/console.ts';
import { requestNodeDevice } from '../src/node/device.ts';

export default async function setup(): Promise<void> {
  const found = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
  console.error(describeAdapterLine(found));
  found.device.destroy();
}
