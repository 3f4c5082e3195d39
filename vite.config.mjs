import { defineConfig } from 'vite';
import { fileBytes } from './tools/file_bytes.mjs';
import { wgsl } from './tools/shaders/vite_plugin.mjs';

export default defineConfig({ plugins: [wgsl(), fileBytes()], assetsInclude: ['**/*.safetensors'] });
