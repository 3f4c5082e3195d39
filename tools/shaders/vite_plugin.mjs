// Makes `import shader from '../../shaders/conv2d/forward.wgsl'` a typed descriptor, in Vite, Vitest and the built command
// line alike. No reflection code ends up in a bundle.
import { readFileSync } from 'node:fs';
import { reflectShader } from './reflect.mjs';
import { shaderName, writeTypes } from './write_types.mjs';

/** @returns {import('vite').Plugin} */
export function wgsl() {
  return {
    name: 'pilotwave-wgsl',
    enforce: 'pre',
    buildStart() {
      writeTypes();
    },
    load(id) {
      const name = shaderName(id.split('?')[0]);
      if (name === null) return null;
      this.addWatchFile(id);
      const descriptor = reflectShader(readFileSync(id, 'utf8'), name);
      return { code: `export default ${JSON.stringify(descriptor)};`, moduleType: 'js' };
    },
  };
}
