/**
 * @file What a contestant supplies so that the networks of networks.ts run on it: its own tensors, its own layouts.
 */
export interface MapSize {
  readonly c: number;
  readonly h: number;
  readonly w: number;
}

export interface PoolParameters<T> {
  /** [c, h·w + 1]. */
  readonly position: T;
  /** [3c, c]. */
  readonly qkvWeight: T;
  readonly qkvBias: T;
  /** [classes, c]. */
  readonly outWeight: T;
  readonly outBias: T;
}

/** Shapes in comments and arguments are those of PyTorch: NCHW, OIHW. */
export interface Operators<T> {
  /** Values are `parameterValues(name, shape)`. */
  parameter(name: string, shape: readonly number[]): T;
  /** Stride 1, the size kept. */
  conv(x: T, weight: T, bias: T, size: { in: number; out: number; kernel: number; h: number; w: number }): T;
  /** 32 groups, epsilon 1e-5. */
  groupNorm(x: T, weight: T, bias: T, size: MapSize): T;
  silu(x: T): T;
  /** x · (1 + scale) + shift; both in one [batch, 2c]. */
  scaleShift(x: T, scaleAndShift: T, size: MapSize): T;
  /** [batch, in] to [batch, out]. */
  linear(x: T, weight: T, bias: T, size: { in: number; out: number }): T;
  add(a: T, b: T): T;
  /** By channels. */
  concatenate(a: T, b: T): T;
  /** Nearest, twice the size. `size` is that of x. */
  up(x: T, size: MapSize): T;
  /** Means of 2 x 2. `size` is that of x. */
  down(x: T, size: MapSize): T;
  /** [batch, 3c, h, w], the channels being all of q, all of k, all of v. `size` is that of the result. */
  attention(qkv: T, size: MapSize & { readonly heads: number }): T;
  /** CLIP's pool: the mean as a token before the others, attention, the first token's result to the classes. */
  attentionPool(x: T, size: MapSize & { readonly heads: number }, parameters: PoolParameters<T>): T;
}
