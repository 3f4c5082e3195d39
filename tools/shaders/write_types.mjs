// Writes .generated/shaders/**/*.d.wgsl.ts, one declaration a shader. tsconfig's rootDirs lays .generated over the tree.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { declareShader, reflectShader } from './reflect.mjs';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const shaders = join(root, 'shaders');
const generated = join(root, '.generated', 'shaders');

/** Paths of all shaders below shaders/, without the extension, with forward slashes. */
export function listShaders() {
  return readdirSync(shaders, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.wgsl'))
    .map((file) => file.slice(0, -'.wgsl'.length).replaceAll('\\', '/'))
    .sort();
}

/** The descriptor name of a file, or null if it is no shader of ours. @param {string} file absolute path */
export function shaderName(file) {
  const path = relative(shaders, file).replaceAll('\\', '/');
  return path.startsWith('..') || !path.endsWith('.wgsl') ? null : path.slice(0, -'.wgsl'.length);
}

export function writeTypes() {
  rmSync(generated, { recursive: true, force: true });
  for (const name of listShaders()) {
    const target = join(generated, `${name}.d.wgsl.ts`);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, declareShader(reflectShader(readFileSync(join(shaders, `${name}.wgsl`), 'utf8'), name)));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeTypes();
