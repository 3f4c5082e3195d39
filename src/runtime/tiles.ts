/**
 * @file Sets the tile sizes of a shader and turns its register arrays into named registers.
 *
 * WGSL allows a function-scope array only with a constant size, and compilers keep an indexed one in memory: slow on
 * every adapter measured. So a kernel is written the readable way,
 *
 *     const PIXELS: u32 = 4u; // tile: pixels an invocation
 *     var sums: array<vec4f, PIXELS>;
 *     for (var p = 0u; p < PIXELS; p++) { sums[p] += w * line[p + kx]; }
 *
 * which is valid as it stands, and this module rewrites it before compilation: a loop whose counter indexes a register
 * array is repeated with the counter replaced by its value, and `sums[2]` becomes the variable `sums_2`. All other loops
 * stay loops. So does one written with `p += 1u` in place of `p++`, for the last use of registers: stores, of which a
 * compiler should see few. All forms compute the same; test/runtime/tiles.test.ts runs them on a device.
 */
import { closing, indices } from './shader_text.ts';

/** A loop of fewer turns is repeated in the text all the same: moving registers would be most of it. */
const LEAST_TURNS = 4;

/** A rolled loop has at most so many turns: what is moved grows with their square. */
const MOST_TURNS = 4;

/** A `const` line of u32 type. */
const CONSTANT = /^([ \t]*const\s+(\w+)\s*:\s*u32\s*=\s*)([^;]+)(;)/gm;
const ARRAY = /\bvar\s+(\w+)\s*:\s*array<\s*([\w<>]+)\s*,\s*([^>]+?)\s*>\s*;/g;
const LOOP = /\bfor\s*\(\s*var\s+(\w+)\s*=\s*([^;]+);\s*\1\s*<\s*([^;]+);\s*\1\s*(\+\+|\+=\s*1u)\s*\)\s*\{/g;

/** The value of an expression of non-negative integer literals, + - * / % and parentheses; null if it holds more. */
export function evaluate(expression: string, constants: ReadonlyMap<string, number>): number | null {
  const tokens = expression.match(/\w+|[-+*/%()]|\S/g) ?? [];
  let at = 0;
  let failed = false;
  const primary = (): number => {
    const token = tokens[at++];
    if (token === '(') {
      const value = sum();
      if (tokens[at++] !== ')') failed = true;
      return value;
    }
    const value =
      token === undefined ? undefined : /^\d+u?$/.test(token) ? Number.parseInt(token, 10) : constants.get(token);
    if (value === undefined) failed = true;
    return value ?? 0;
  };
  const product = (): number => {
    let value = primary();
    for (let op = tokens[at]; op === '*' || op === '/' || op === '%'; op = tokens[at]) {
      at++;
      const right = primary();
      if (op !== '*' && right === 0) failed = true;
      else value = op === '*' ? value * right : op === '/' ? Math.trunc(value / right) : value % right;
    }
    return value;
  };
  const sum = (): number => {
    let value = product();
    for (let op = tokens[at]; op === '+' || op === '-'; op = tokens[at]) {
      at++;
      const right = product();
      value += op === '+' ? right : -right;
    }
    return value;
  };
  const value = sum();
  return failed || at !== tokens.length || value < 0 ? null : value;
}

const word = (name: string): RegExp => new RegExp(`(?<![\\w.])${name}\\b`, 'g');

/**
 * @param source WGSL text
 * @param tiles new values for constants of the text
 * @throws Error if a register array is used in a way that unrolling cannot resolve
 */
export function expandTiles(source: string, tiles: Readonly<Record<string, number>>): string {
  let text = setTiles(source, tiles);
  const constants = new Map<string, number>();
  for (const [, , name, value] of text.matchAll(CONSTANT)) {
    const number = evaluate(value!, constants);
    if (number !== null) constants.set(name!, number);
  }

  const sizes = new Map<string, number>();
  text = text.replace(ARRAY, (declaration, name: string, type: string, length: string) => {
    const size = evaluate(length, constants);
    if (size === null) return declaration;
    if (sizes.has(name) && sizes.get(name) !== size) throw new Error(`register array ${name} has two sizes`);
    sizes.set(name, size);
    return Array.from({ length: size }, (_, i) => `var ${name}_${i}: ${type};`).join(' ');
  });
  if (sizes.size === 0) return text;

  const arrays = [...sizes.keys()];
  const governs = (counter: string, body: string, among: readonly string[] = arrays) =>
    among.some((array) => indices(body, array).some(({ index }) => word(counter).test(index)));

  /**
   * A loop that stays one, of a few turns: each uses the first registers, and then the others move down. So the text holds
   * a part of the body's loads and stores, which is what compilation takes most time for.
   */
  const rolled = (counter: string, turns: number, body: string): string => {
    let each = Math.ceil(turns / MOST_TURNS);
    while (turns % each !== 0) each++;
    const used = new Map<string, string[]>(); // array and index to the registers of all turns
    const copies = Array.from({ length: each }, (_, own) => {
      let text = body;
      for (const array of arrays) {
        for (const { from, to, index } of indices(text, array).reverse()) {
          if (!word(counter).test(index)) continue;
          const places = Array.from({ length: turns }, (_, i) => {
            const place = evaluate(index.replace(word(counter), `${i}u`), constants);
            if (place === null) throw new Error(`cannot resolve register ${array}[${index}]`);
            return `${array}[${place}]`;
          });
          used.set(`${array}[${index}]`, places);
          text = `${text.slice(0, from)}${places[own]}${text.slice(to)}`;
        }
      }
      return text.replace(word(counter), own === 0 ? counter : `(${counter} + ${own}u)`);
    });
    const moves = Array.from({ length: turns - each }, (_, i) =>
      [...used.values()].map((places) => `${places[i]} = ${places[i + each]};`).join(' '),
    );
    const head = `for (var ${counter} = 0u; ${counter} < ${turns}u; ${counter} += ${each}u)`;
    return `${head} { ${copies.join('')} ${moves.join(' ')} }`;
  };

  const unroll = (part: string): string => {
    let result = '';
    let rest = part;
    for (;;) {
      LOOP.lastIndex = 0;
      const match = LOOP.exec(rest);
      if (!match) return result + rest;
      const [head, counter, start, bound, step] = match as unknown as [string, string, string, string, string];
      const open = match.index + head.length - 1;
      const end = closing(rest, open);
      const body = rest.slice(open, end);
      result += rest.slice(0, match.index);
      const from = evaluate(start, constants);
      const to = evaluate(bound, constants);
      if (from !== null && to !== null && governs(counter, body)) {
        if (new RegExp(`\\bvar\\s+${counter}\\b`).test(body))
          throw new Error(`loop counter ${counter} is declared twice`);
        const turns = to - from;
        if (step === '++' || from !== 0 || turns < LEAST_TURNS) {
          for (let i = from; i < to; i++) result += unroll(body.replace(word(counter), `${i}u`));
        } else {
          const after = arrays.find((array) => governs(counter, body, [array]) && word(array).test(rest.slice(end)));
          if (after) throw new Error(`register array ${after} is used after a loop that moves it`);
          result += rolled(counter, turns, unroll(body));
        }
      } else {
        result += head.slice(0, -1) + unroll(body);
      }
      rest = rest.slice(end);
    }
  };
  text = unroll(text);

  for (const [array, size] of sizes) {
    for (const { from, to, index } of indices(text, array).reverse()) {
      const value = evaluate(index, constants);
      if (value === null || value >= size) throw new Error(`cannot resolve register ${array}[${index}]`);
      text = `${text.slice(0, from)}${array}_${value}${text.slice(to)}`;
    }
    if (word(array).test(text)) throw new Error(`register array ${array} is used as a whole`);
  }
  return text;
}

/** Only replaces the numbers of the tile constants: the readable form, for comparison in tests. */
export function setTiles(source: string, tiles: Readonly<Record<string, number>>): string {
  const unused = new Set(Object.keys(tiles));
  const text = source.replace(CONSTANT, (line, head: string, name: string, _value, tail: string) => {
    if (!unused.delete(name)) return line;
    return `${head}${tiles[name]}u${tail}`;
  });
  if (unused.size > 0) throw new Error(`the shader has no tile constant ${[...unused].join(', ')}`);
  return text;
}
