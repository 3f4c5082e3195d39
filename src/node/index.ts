/** @file `pilotwave/node`: a GPUDevice in Node. Everything else is in `pilotwave`. */
export { type AdapterChoice, type NodeDevice, requestNodeDevice } from './device.ts';
export { fileStore } from './tuning_store.ts';
