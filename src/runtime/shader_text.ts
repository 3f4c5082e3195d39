/**
 * @file Finding one's way in the text of a shader, for the modules that exchange parts of it before compilation.
 */

/** The index just after the bracket that closes the one at `open`. */
export function closing(text: string, open: number): number {
  const opener = text[open];
  const closer = opener === '{' ? '}' : ']';
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    if (text[i] === opener) depth++;
    else if (text[i] === closer && --depth === 0) return i + 1;
  }
  throw new Error(`unbalanced ${opener}`);
}

/** The texts in the brackets that follow the array's name. */
export function indices(text: string, array: string): { from: number; to: number; index: string }[] {
  const found = [];
  for (const match of text.matchAll(new RegExp(`(?<![\\w.])${array}\\s*\\[`, 'g'))) {
    const open = match.index + match[0].length - 1;
    const to = closing(text, open);
    found.push({ from: match.index, to, index: text.slice(open + 1, to - 1) });
  }
  return found;
}
