/**
 * Libraries that are installed in this folder alone, when the benchmark is wanted: the project's own type check must pass
 * without them.
 */
declare module '@jax-js/jax';
declare module '@tensorflow/tfjs-core';
declare module '@tensorflow/tfjs-core/dist/register_all_gradients';
declare module '@tensorflow/tfjs-backend-cpu';
declare module '@tensorflow/tfjs-backend-webgpu';
declare module 'onnxruntime-web/webgpu';
declare module 'esbuild';
