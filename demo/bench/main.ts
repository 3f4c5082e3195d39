/** @file The benchmark page begins. */
import { BenchPage } from '../../bench/page/page.ts';
import { fillIcons } from '../shell/icons.ts';

fillIcons();
void new BenchPage().start();
