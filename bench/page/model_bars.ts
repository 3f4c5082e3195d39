/** @file Whole models as bars to one scale, a segment a layer. */
import { all, make } from '../../demo/shell/dom.ts';
import { bytes, milliseconds } from '../../demo/shell/words.ts';
import type { LayerKind, ModelResult } from '../results.ts';

const KINDS: Readonly<Record<LayerKind, string>> = {
  conv: 'convolution',
  norm: 'GroupNorm',
  attn: 'attention',
  lin: 'linear or 1×1 convolution',
  other: 'resampling, addition and the like',
};

/** The narrowest bar, in percent, so that its layers can still be pointed at. */
const NARROWEST = 14;

export function drawModels(
  host: HTMLElement,
  tip: HTMLElement,
  models: readonly ModelResult[],
  names: readonly { name: string; note: string }[],
): void {
  const longest = Math.max(...models.map(({ ms }) => ms), 0);
  const open = names.filter(({ name, note }) => !models.some((m) => m.name === name && m.note === note));
  host.replaceChildren(
    ...models.map((model) => bar(model, longest)),
    ...open.map(({ name, note }) =>
      make(
        'div',
        { class: 'model' },
        make('h3', {}, name, make('small', {}, note)),
        make('div', { class: 'meta' }, 'not run yet'),
      ),
    ),
  );
  tip.textContent = models.length > 0 ? 'Point at a segment, or use the arrow keys, for its layer and its time.' : '';
  const tell = (target: EventTarget | null) => {
    const text = target instanceof HTMLElement ? target.dataset['tip'] : undefined;
    if (text) tip.textContent = text;
  };
  for (const stack of all('.stack', host)) {
    stack.addEventListener('mouseover', (event) => tell(event.target));
    stack.addEventListener('focusin', (event) => tell(event.target));
    stack.addEventListener('click', (event) => tell(event.target));
    stack.addEventListener('keydown', (event) => {
      const from = event.target as HTMLElement;
      const to =
        event.key === 'ArrowRight'
          ? from.nextElementSibling
          : event.key === 'ArrowLeft'
            ? from.previousElementSibling
            : null;
      if (!(to instanceof HTMLElement)) return;
      event.preventDefault();
      from.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    });
  }
}

function bar(model: ModelResult, longest: number): HTMLElement {
  const { name, note, ms, spread, layers, dispatches, submits, peakBytes, share } = model;
  const sum = layers.reduce((total, layer) => total + layer.ms, 0);
  const segments = layers.map((layer, i) => {
    const part = layer.ms / sum;
    const text = `${name}, ${layer.name}: ${KINDS[layer.kind]}, ${milliseconds(layer.ms)} alone, ${(100 * part).toFixed(1)} % of all layers`;
    const segment = make('button', {
      type: 'button',
      class: `f-${layer.kind}`,
      tabindex: i === 0 ? 0 : -1,
      'data-tip': text,
      'aria-label': text,
    });
    segment.style.flex = `${(100 * part).toFixed(3)} 0 0`;
    return segment;
  });
  const stack = make(
    'div',
    { class: 'stack', role: 'group', 'aria-label': `${name}, ${note}: time by layer` },
    ...segments,
  );
  stack.style.width = `${Math.max(NARROWEST, (100 * ms) / longest)}%`;
  const fact = (title: string, value: string) => make('div', {}, make('dt', {}, title), make('dd', {}, value));
  return make(
    'div',
    { class: 'model' },
    make('h3', {}, name, make('small', {}, note)),
    make(
      'div',
      {},
      make(
        'div',
        { class: 'ms' },
        make('span', {}, make('b', {}, milliseconds(ms)), ` ±${(100 * spread).toFixed(1)} %`),
        make('span', {}, `${layers.length} layers`),
      ),
      stack,
    ),
    make(
      'dl',
      {},
      fact('dispatches', String(dispatches)),
      fact('submits', String(submits)),
      fact('moved', bytes(model.bytes)),
      fact('peak memory', bytes(peakBytes)),
      fact('of peak', `${Math.round(100 * share)} %`),
    ),
  );
}
