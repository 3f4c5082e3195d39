import { defineConfig } from 'vitest/config';
import { wgsl } from './tools/shaders/vite_plugin.mjs';

export default defineConfig({
  plugins: [wgsl()],
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/slow/**'],
    // A process each, since the Vulkan loader reads the environment of the process; two, since software adapters use
    // all cores themselves.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 300_000,
    hookTimeout: 300_000,
    globalSetup: ['test/setup.ts'],
  },
});
