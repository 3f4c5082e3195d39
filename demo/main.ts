/** @file The generation page begins. */
import { App } from './app.ts';
import { fillIcons } from './shell/icons.ts';

fillIcons();
void new App().start();
