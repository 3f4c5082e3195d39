/** @file Numbers as the pages write them: three significant digits, a unit after a space, a true minus. */

const THIN = '\u2009';

/** Thin spaces between thousands. */
export const whole = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN);

/** Three significant digits without an exponent. */
export function digits(value: number): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return '–';
  if (size >= 1000) return whole(value);
  if (size < 0.1 && size > 0) {
    const text = size < 1e-3 ? value.toExponential(1).replace('e-', 'e−') : value.toPrecision(2);
    return text.replace(/^-/, '−');
  }
  const places = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toFixed(places).replace('-', '−');
}

export const bytes = (count: number): string =>
  count < 1e6
    ? `${digits(count / 1e3)} kB`
    : count < 1e9
      ? `${(count / 1e6).toFixed(1)} MB`
      : `${(count / 1e9).toFixed(2)} GB`;

/** From microseconds to seconds, as the size asks for. */
export const milliseconds = (ms: number): string =>
  ms >= 1000 ? `${digits(ms / 1000)} s` : ms >= 1 ? `${digits(ms)} ms` : `${digits(ms * 1000)} µs`;

/** Time left: tenths below ten seconds, then whole seconds, then minutes. */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${seconds.toFixed(0)} s`;
  const total = Math.round(seconds);
  return `${Math.floor(total / 60)} min ${total % 60} s`;
}

/** A probability with two decimals; never "1.00" for what is not almost one. */
export const probability = (p: number): string => (p > 0.995 ? '1.00' : p.toFixed(2));

export const scaleText = (scale: number): string => String(Math.round(scale * 10) / 10);

export const plural = (count: number, one: string): string => `${whole(count)} ${one}${count === 1 ? '' : 's'}`;

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
export const escapeHtml = (text: string): string => text.replace(/[&<>"]/g, (c) => ENTITIES[c]!);
