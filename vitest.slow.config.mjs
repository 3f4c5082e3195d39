// `npm run test:slow`: what takes minutes and gigabytes, or a quiet machine.
import { defineConfig } from 'vitest/config';
import config from './vitest.config.mjs';

export default defineConfig({
  ...config,
  test: { ...config.test, include: ['test/slow/*.test.ts'], exclude: [], maxWorkers: 1 },
});
