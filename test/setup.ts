/** @file Once before all tests: builds the pages, and says on which adapter the tests run. */
import { describeAdapterLine } from '../src/cli/console.ts';
import { requestNodeDevice } from '../src/node/device.ts';
import { buildSite } from './browser/site.ts';

export default async function setup(): Promise<void> {
  buildSite();
  const found = await requestNodeDevice(process.env['PILOTWAVE_ADAPTER'] ?? 'auto');
  console.error(describeAdapterLine(found));
  found.device.destroy();
}
