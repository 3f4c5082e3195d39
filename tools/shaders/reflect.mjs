// Reads a WGSL file into the descriptor that the runtime and the type checker share.
//
// A shader of this project is valid WGSL by itself. Its constants fall into three classes, told apart by form alone:
//
//   override HEIGHT: u32;                 a size: the caller must give it; the runtime makes it a pipeline constant or
//                                         a field of a uniform, so that one pipeline can serve many shapes
//   override RESIDUAL: bool = false;      a switch: optional, always a pipeline constant
//   const PIXELS: u32 = 4u; // tile: ...  a tile size: the runtime may replace the number and unrolls what it governs
import { WgslReflect } from 'wgsl_reflect/wgsl_reflect.module.js';

const SCALAR = /^\s*override\s+(\w+)\s*:\s*(u32|i32|f32|bool)\s*(?:=\s*([^;]+?)\s*)?;/gm;
const TILE = /^\s*const\s+(\w+)\s*:\s*u32\s*=\s*(\d+)u\s*;\s*\/\/\s*tile:/gm;
const STORAGE = 1; // wgsl_reflect's ResourceType.Storage; 0 is a uniform

/** @param {string} text @param {string} name @returns {object} */
function literal(text, name) {
  if (text === 'true' || text === 'false') return text === 'true';
  const value = Number(text.replace(/[uif]$/, ''));
  if (!Number.isFinite(value)) throw new Error(`the default of override ${name} must be a literal, found "${text}"`);
  return value;
}

/**
 * @param {string} code WGSL text
 * @param {string} name path below shaders/ without the extension, for example "conv2d/forward"
 */
export function reflectShader(code, name) {
  try {
    const reflection = new WgslReflect(plainTypes(code));
    const entries = reflection.entry.compute;
    if (entries.length !== 1 || entries[0].name !== 'main') {
      throw new Error('expected exactly one compute entry point, called "main"');
    }

    const sizes = {};
    const switches = {};
    for (const [, id, type, value] of code.matchAll(SCALAR)) {
      if (value === undefined) {
        if (type === 'bool') throw new Error(`override ${id} is a switch and needs a default`);
        sizes[id] = type;
      } else {
        switches[id] = { type, value: literal(value, id) };
      }
    }
    const found = Object.keys(sizes).length + Object.keys(switches).length;
    if (found !== reflection.overrides.length) {
      throw new Error(`every override needs a line of its own: ${reflection.overrides.length} declared, ${found} read`);
    }

    const tiles = {};
    for (const [, id, value] of code.matchAll(TILE)) tiles[id] = Number(value);

    const groups = reflection.getBindGroups();
    if (groups.length > 1) throw new Error('all bindings must be in @group(0)');
    const bindings = [];
    const uniforms = {};
    for (const resource of groups[0] ?? []) {
      if (resource === undefined) throw new Error('binding numbers must start at 0 and leave no gap');
      if (resource.resourceType === STORAGE) {
        bindings.push({ name: resource.name, index: resource.binding, access: resource.access });
        continue;
      }
      const struct = reflection.structs.find((s) => s.name === resource.type.name);
      if (!struct) throw new Error(`uniform ${resource.name} must be a struct of scalars`);
      const fields = {};
      for (const member of struct.members) {
        if (!['u32', 'i32', 'f32'].includes(member.type.name)) {
          throw new Error(`uniform field ${resource.name}.${member.name} must be u32, i32 or f32`);
        }
        fields[member.name] = { type: member.type.name, offset: member.offset };
      }
      bindings.push({ name: resource.name, index: resource.binding, access: 'uniform' });
      uniforms[resource.name] = { size: struct.size, fields };
    }
    return { name, source: stripComments(code), bindings, uniforms, sizes, switches, tiles };
  } catch (error) {
    throw new Error(`shaders/${name}.wgsl: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * wgsl_reflect does not know matrices held by a subgroup. They are local to functions, so nothing that is reflected depends on
 * them: for reflection their calls become plain ones.
 *
 * @param {string} code
 */
const plainTypes = (code) =>
  code.replace(/(subgroupMatrix(?:Load|Store))<.*?>(?=\()/g, '$1').replace(/subgroup_matrix_\w+<[^>]*>/g, 'f32');

/** Line comments go, line numbers stay: a compiler message still points into the file. @param {string} code */
function stripComments(code) {
  return code.replace(/\/\/.*$/gm, '').replace(/[ \t]+$/gm, '');
}

/** The declaration file that makes `import shader from './x.wgsl'` typed. @param {ReturnType<typeof reflectShader>} d */
export function declareShader(d) {
  const union = (keys) => keys.map((k) => `'${k}'`).join(' | ') || 'never';
  const record = (entries) => `{ ${entries.map(([k, v]) => `readonly ${k}: ${v}`).join('; ')} }`;
  const uniforms = Object.entries(d.uniforms).map(([k, u]) => [k, union(Object.keys(u.fields))]);
  const switches = Object.entries(d.switches).map(([k, s]) => [k, s.type === 'bool' ? 'boolean' : 'number']);
  return [
    `// Made from shaders/${d.name}.wgsl by tools/shaders; not to be edited.`,
    `import type { Shader } from '${'../'.repeat(d.name.split('/').length + 1)}src/runtime/shader.ts';`,
    'declare const shader: Shader<{',
    `  bindings: ${record(d.bindings.filter((b) => b.access !== 'uniform').map((b) => [b.name, `'${b.access}'`]))};`,
    `  uniforms: ${record(uniforms)};`,
    `  sizes: ${union(Object.keys(d.sizes))};`,
    `  switches: ${record(switches)};`,
    `  tiles: ${union(Object.keys(d.tiles))};`,
    '}>;',
    'export default shader;',
    '',
  ].join('\n');
}
