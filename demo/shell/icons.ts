/** @file The pictograms, as paths on a grid of 16. */
import { all } from './dom.ts';

const PATHS: Readonly<Record<string, string>> = {
  dice: '<rect x="2" y="2" width="12" height="12" rx="3"/><path stroke-width="2" d="M5.500 5.500h0M10.500 5.500h0M8 8h0M5.500 10.500h0M10.500 10.500h0"/>',
  lock: '<rect x="3" y="7" width="10" height="7" rx="1.500"/><path d="M5.500 7V5a2.500 2.500 0 0 1 5 0v2"/>',
  save: '<path d="M8 2v8.500M4.500 7 8 10.500 11.500 7M2.500 14h11"/>',
  sheet:
    '<rect x="2" y="2" width="5" height="5" rx="1"/><rect x="9" y="2" width="5" height="5" rx="1"/><rect x="2" y="9" width="5" height="5" rx="1"/><rect x="9" y="9" width="5" height="5" rx="1"/>',
  film: '<rect x="2" y="3" width="12" height="10" rx="1.500"/><path d="m6.700 5.800 3.600 2.200-3.600 2.200z"/>',
  link: '<path d="M6.500 9.500a2.800 2.800 0 0 0 4 0L13 7a2.800 2.800 0 1 0-4-4l-.8.8M9.500 6.500a2.800 2.800 0 0 0-4 0L3 9a2.800 2.800 0 1 0 4 4l.8-.8"/>',
  open: '<path d="M2 4.500h4L7.500 6H14v7H2z"/>',
  close: '<path d="m4 4 8 8M12 4l-8 8"/>',
  stop: '<rect x="4" y="4" width="8" height="8" rx="1" fill="currentColor"/>',
  play: '<path d="M5 3.500v9L12 8z" fill="currentColor"/>',
  warn: '<path d="M8 2.500 14.200 13.500H1.800zM8 6.800v3M8 11.700h0"/>',
  heat: '<rect x="2" y="2" width="12" height="12" rx="1.500"/><path d="M2 10.500c2.500 0 2.500-4 5-4s2.500 3 7 3"/>',
  drop: '<path d="M8 10.500V2.500M5 5.500l3-3 3 3M2 10v2a2 2 0 0 0 2 2h8a2 2 0 0 0 2-2v-2"/>',
  sliders: '<path d="M2 5h6M12 5h2M2 11h2M8 11h6"/><circle cx="10" cy="5" r="2"/><circle cx="6" cy="11" r="2"/>',
  chevron: '<path d="m6 3.500 4.500 4.500L6 12.500"/>',
  logo: '<path stroke-width="1.400" d="M1.300 10.300c2.200 0 2.200 2.400 4.400 2.400s2.300-4.700 4.500-4.700 2.300 2.300 4.500 2.300"/><circle cx="10.200" cy="4.300" r="1.700" fill="currentColor" stroke="none"/>',
};

/** An icon beside words, or on a button that has an accessible name. */
export function icon(name: keyof typeof PATHS & string, className = 'icon'): SVGSVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', className);
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  svg.innerHTML = PATHS[name] ?? '';
  return svg;
}

/** Puts icons where the page's HTML names them. */
export function fillIcons(): void {
  for (const place of all('[data-icon]')) {
    place.replaceWith(icon(place.dataset['icon'] ?? '', place.dataset['class'] ?? 'icon'));
  }
}
