/** @file Values of a file as they may stand in a message: short, and made without following what they contain. */

const MAX_CHARACTERS = 80;

/** JSON of plain values; of lists and objects a glimpse. Safe for values of any size, depth and shape. */
export function show(value: unknown): string {
  if (typeof value === 'string') return cut(JSON.stringify(value.slice(0, MAX_CHARACTERS + 1)));
  if (Array.isArray(value)) {
    const items = value.slice(0, 8).map((item) => (typeof item === 'object' && item !== null ? '…' : show(item)));
    return cut(`[${items.join(',')}${value.length > 8 ? ',…' : ''}]`);
  }
  if (value instanceof Map) return `a dictionary of ${value.size}`;
  if (typeof value === 'object' && value !== null) return cut(`{${Object.keys(value).slice(0, 8).join(',')}}`);
  return cut(String(value));
}

const cut = (text: string): string => (text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text);
