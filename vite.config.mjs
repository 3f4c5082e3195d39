import { defineConfig } from 'vite';
import { wgsl } from './tools/shaders/vite_plugin.mjs';

export default defineConfig({ plugins: [wgsl()], assetsInclude: ['**/*.safetensors'] });
