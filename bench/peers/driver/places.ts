/** @file Folders. The program runs as a bundle below node_modules, so it is told where its sources lie. */
import { join } from 'node:path';

/** Of this benchmark. */
export const folder = process.env['PEERS_FOLDER']!;
export const root = join(folder, '..', '..');
export const modules = join(folder, 'node_modules');
/** What this run makes, this program included; removed at its end. */
export const bundles = process.env['PEERS_BUNDLES']!;
