// Records the run that visitors without WebGPU are shown: demo/recorded/run.json and run.png. Run it again when the shipped
// models change: node tools/record_pictures.mjs
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runnerImport } from 'vite';
import { wgsl } from './shaders/vite_plugin.mjs';
import { root } from './shaders/write_types.mjs';

const { module } = await runnerImport(join(root, 'demo/recorded/record.ts'), {
  root,
  plugins: [wgsl()],
});
const { json, png } = module;
writeFileSync(join(root, 'demo/recorded/run.json'), json);
writeFileSync(join(root, 'demo/recorded/run.png'), png);
console.error(`run.json ${json.length} bytes, run.png ${png.length} bytes`);
