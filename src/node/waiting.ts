/**
 * @file Leaves a software adapter the processor while Node waits for it.
 *
 * The package "webgpu" asks Dawn in every turn of Node's event loop whether it is done, and so keeps a core busy for as long
 * as anything is awaited. A software adapter computes on these very cores. So while one of its promises is open, each turn
 * of the loop sleeps a little.
 */

/** Short waits are not worth a sleep: a promise takes some ten turns to be fulfilled after its work is done. */
const AWAKE_MS = 2;

/** A turn sleeps for this part of what was waited so far, within limits. The system adds about 0.1 ms of its own. */
const SHARE = 1 / 200;
const MIN_SLEEP_MS = 0.05;
const MAX_SLEEP_MS = 0.5;

let open = 0;
let since = 0;
let turning = false;
const never = new Int32Array(new SharedArrayBuffer(4));

function turn(): void {
  if (open === 0) {
    turning = false;
    return;
  }
  const waited = performance.now() - since;
  if (waited > AWAKE_MS) Atomics.wait(never, 0, 0, Math.min(MAX_SLEEP_MS, Math.max(MIN_SLEEP_MS, SHARE * waited)));
  setImmediate(turn).unref();
}

function sleepingUntilDone<T>(promise: Promise<T>): Promise<T> {
  if (open++ === 0) since = performance.now();
  if (!turning) {
    turning = true;
    setImmediate(turn).unref();
  }
  return promise.finally(() => {
    open--;
    since = performance.now(); // of many promises, each is waited for anew
  });
}

/** Makes the promises of a device that are fulfilled when work is done sleep meanwhile. */
export function sleepWhileWaiting(device: GPUDevice): void {
  const { queue } = device;
  const createBuffer = device.createBuffer.bind(device);
  const createComputePipelineAsync = device.createComputePipelineAsync.bind(device);
  const onSubmittedWorkDone = queue.onSubmittedWorkDone.bind(queue);
  device.createComputePipelineAsync = (descriptor) => sleepingUntilDone(createComputePipelineAsync(descriptor));
  queue.onSubmittedWorkDone = () => sleepingUntilDone(onSubmittedWorkDone());
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer(descriptor);
    const mapAsync = buffer.mapAsync.bind(buffer);
    buffer.mapAsync = (...range) => sleepingUntilDone(mapAsync(...range));
    return buffer;
  };
}
