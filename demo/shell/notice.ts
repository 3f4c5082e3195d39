/** @file Boxes that say what happened, what is kept, and what to do. */
import { type Child, make } from './dom.ts';
import { icon } from './icons.ts';

export interface NoticeAction {
  readonly title: string;
  readonly act: () => void;
}

/** @param title in bold, the first words */
export function notice(
  kind: 'plain' | 'warn' | 'error',
  title: string,
  text: Child | readonly Child[],
  actions: readonly NoticeAction[] = [],
): HTMLElement {
  const body = Array.isArray(text) ? text : [text as Child];
  return make(
    'div',
    { class: `notice ${kind}`, role: kind === 'error' ? 'alert' : 'note' },
    kind !== 'plain' && icon('warn'),
    make('div', { class: 'body' }, make('p', {}, make('b', {}, title), ' ', ...body)),
    actions.length > 0 &&
      make(
        'div',
        { class: 'act' },
        ...actions.map(({ title: label, act }) => {
          const button = make('button', { type: 'button', class: 'btn small' }, label);
          button.addEventListener('click', act);
          return button;
        }),
      ),
  );
}
