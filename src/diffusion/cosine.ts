/**
 * @file cos(x) to the last bit. Math.cos may differ between engines by a unit in the last place, and the cosine schedule
 * takes differences of neighbouring cosines: at 4000 steps that unit is already 2e-12 of a beta.
 */

/** A number as an unevaluated sum of two doubles. */
type Pair = readonly [number, number];

function exactSum(a: number, b: number): Pair {
  const sum = a + b;
  const part = sum - a;
  return [sum, a - (sum - part) + (b - part)];
}

/** Veltkamp's splitting, Dekker's product. */
function exactProduct(a: number, b: number): Pair {
  const product = a * b;
  const split = (x: number): Pair => {
    const big = 134217729 * x;
    const high = big - (big - x);
    return [high, x - high];
  };
  const [ah, al] = split(a);
  const [bh, bl] = split(b);
  return [product, al * bl - (product - ah * bh - al * bh - ah * bl)];
}

function multiply([ah, al]: Pair, [bh, bl]: Pair): Pair {
  const [high, low] = exactProduct(ah, bh);
  return exactSum(high, low + (ah * bl + al * bh));
}

function divide([high, low]: Pair, divisor: number): Pair {
  const quotient = high / divisor;
  const [back, rest] = exactProduct(quotient, divisor);
  return exactSum(quotient, (high - back - rest + low) / divisor);
}

/** cos(x) for |x| <= 2, by its Taylor series in pairs of doubles, rounded once: off by 1e-31 before the rounding. */
export function cosine(x: number): number {
  const square = exactProduct(x, x);
  let sum: Pair = [1, 0];
  for (let n = 32; n > 0; n -= 2) {
    const [high, low] = divide(multiply(square, sum), n * (n - 1));
    const [a, b] = exactSum(1, -high);
    sum = exactSum(a, b - low);
  }
  return sum[0] + sum[1];
}
