// Makes `import bytes from './file?bytes'` the size of a file, so that a page can tell how much of a download is done
// whatever the server says of its length.
import { statSync } from 'node:fs';

/** @returns {import('vite').Plugin} */
export function fileBytes() {
  return {
    name: 'pilotwave-file-bytes',
    enforce: 'pre',
    load(id) {
      const [path, query] = id.split('?');
      if (query !== 'bytes') return null;
      this.addWatchFile(path);
      return { code: `export default ${statSync(path).size};`, moduleType: 'js' };
    },
  };
}
