/**
 * @file Vulkan drivers on Linux: where a software one can be found when there is no GPU.
 *
 * Dawn opens "libvulkan.so.1", the loader, which opens the drivers that description files (ICDs) name. Chrome and Chromium
 * bring both: a loader, and SwiftShader, a driver that computes on the CPU. So does the npm package @sparticuz/chromium,
 * in an archive.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { constants, homedir, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

export interface SoftwareDriver {
  /** In words, for the user. */
  readonly source: string;
  /** The driver's description file. */
  readonly icd: string;
  /** A Vulkan loader to use where the system has none. */
  readonly loader: string;
}

const ICD = 'vk_swiftshader_icd.json';
const LOADER = 'libvulkan.so.1';

/** Folders in which Chrome and Chromium are installed, and those in which puppeteer and playwright keep theirs. */
function browserFolders(): string[] {
  const folders = [
    '/usr/lib/chromium',
    '/usr/lib/chromium-browser',
    '/usr/lib64/chromium-browser',
    '/opt/google/chrome',
    '/opt/google/chrome-beta',
    '/opt/google/chrome-unstable',
    '/opt/chromium.org/chromium',
    '/opt/microsoft/msedge',
    '/snap/chromium/current/usr/lib/chromium-browser',
  ];
  if (process.env['CHROME_PATH']) folders.unshift(dirname(process.env['CHROME_PATH']));
  for (const cache of ['puppeteer/chrome', 'ms-playwright']) {
    const root = join(homedir(), '.cache', cache);
    if (!existsSync(root)) continue;
    for (const version of readdirSync(root))
      folders.push(join(root, version, 'chrome-linux64'), join(root, version, 'chrome-linux'));
  }
  return folders;
}

/** SwiftShader inside an installed browser, or null. */
export function browserDriver(): SoftwareDriver | null {
  for (const folder of browserFolders()) {
    const icd = join(folder, ICD);
    const loader = join(folder, LOADER);
    if (existsSync(icd) && existsSync(loader)) return { source: `SwiftShader of ${folder}`, icd, loader };
  }
  return null;
}

/** SwiftShader inside the npm package @sparticuz/chromium, unpacked at first use; or null. */
export function packagedDriver(): SoftwareDriver | null {
  const archive = packagedArchive('swiftshader.tar.br');
  if (!archive) return null;
  const folder = unpackOnce(archive, 'pilotwave-swiftshader');
  return { source: 'SwiftShader of @sparticuz/chromium', icd: join(folder, ICD), loader: join(folder, LOADER) };
}

/** The path of an archive of @sparticuz/chromium, or null if the package is not there. */
export function packagedArchive(name: string): string | null {
  let folder: string;
  try {
    folder = dirname(createRequire(import.meta.url).resolve('@sparticuz/chromium'));
  } catch {
    return null;
  }
  for (; dirname(folder) !== folder; folder = dirname(folder)) {
    const archive = join(folder, 'bin', name);
    if (existsSync(archive)) return archive;
  }
  return null;
}

/**
 * Unpacks the files of an archive, without its folders, into node_modules/.cache, or where that cannot be written into a
 * temporary folder of this process's own.
 */
export function unpackOnce(archive: string, name: string): string {
  const packed = readFileSync(archive);
  const cache = join(dirname(archive), '..', '..', '..', '.cache');
  const folder = join(cache, `${name}-${packed.byteLength}`);
  if (existsSync(folder)) return folder;
  let partial: string;
  try {
    mkdirSync(cache, { recursive: true });
    partial = mkdtempSync(`${folder}.`);
  } catch {
    partial = mkdtempSync(join(tmpdir(), `${name}-`));
  }
  for (const file of readTar(brotliDecompressSync(packed))) {
    const target = basename(file.name);
    if (/^[\w.]+$/.test(target)) writeFileSync(join(partial, target), file.data, { mode: 0o755 });
  }
  if (!partial.startsWith(folder)) return partial;
  try {
    renameSync(partial, folder); // in one go, so that another process never sees half of it
  } catch (error) {
    if (!existsSync(folder)) throw error;
    rmSync(partial, { recursive: true, force: true });
  }
  return folder;
}

/** Regular files of a tar archive. */
function* readTar(archive: Buffer): Generator<{ name: string; data: Buffer }> {
  for (let at = 0; at + 512 <= archive.length; ) {
    const header = archive.subarray(at, at + 512);
    const text = (from: number, to: number) => header.toString('latin1', from, to).replace(/\0.*$/s, '');
    const name = text(0, 100);
    if (name === '') return;
    const size = Number.parseInt(text(124, 136), 8);
    const type = text(156, 157);
    if (type === '' || type === '0')
      yield { name: name.replace(/^\.\//, ''), data: archive.subarray(at + 512, at + 512 + size) };
    at += 512 + Math.ceil(size / 512) * 512;
  }
}

/** Whether the kernel shows a GPU at all: a render node, NVIDIA's device, or WSL's. */
export function gpuDeviceFile(): boolean {
  if (existsSync('/dev/nvidia0') || existsSync('/dev/nvidiactl') || existsSync('/dev/dxg')) return true;
  return existsSync('/dev/dri') && readdirSync('/dev/dri').some((name) => name.startsWith('renderD'));
}

/** Whether the system has a Vulkan loader of its own that Dawn will find. */
export function systemLoader(): boolean {
  const folders = [
    ...(process.env['LD_LIBRARY_PATH'] ?? '').split(':').filter(Boolean),
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/lib/x86_64-linux-gnu',
    '/lib64',
    '/usr/local/lib',
  ];
  return folders.some((folder) => existsSync(join(folder, LOADER)));
}

/** glibc's RTLD_NODELETE, which Node's constants lack. */
const RTLD_NODELETE = 0x1000;

/**
 * Loads a Vulkan loader into this process and keeps it, so that Dawn, which asks for "libvulkan.so.1", finds it loaded
 * already. It is no Node add-on, which is what Node then complains about; the library stays nevertheless.
 */
export function preloadLoader(path: string): void {
  try {
    process.dlopen({ exports: {} } as NodeModule, path, constants.dlopen.RTLD_NOW | RTLD_NODELETE);
  } catch {
    // Expected: "Module did not self-register". If the library itself could not be loaded, Dawn reports no adapter.
  }
}
