/**
 * @file Error against tolerance, as the golden folder's README defines them.
 */
import type { OutputSpec } from './manifest.ts';

export type Status = 'ok' | 'fail' | 'unsupported';

export interface TensorReport {
  readonly status: Status;
  /** ||a - b|| / ||b||; with per-step comparison that of the worst step. Null where nothing was computed. */
  readonly relL2: number | null;
  readonly maxAbs: number | null;
  readonly tolRelL2: number | null;
  readonly tolMaxAbs: number | null;
}

export const unsupported = (spec: OutputSpec | null): TensorReport => ({
  status: 'unsupported',
  relL2: null,
  maxAbs: null,
  tolRelL2: spec?.tol_rel_l2 ?? null,
  tolMaxAbs: spec?.tol_max_abs ?? null,
});

/** A specification whose relative tolerance is at least `tolerance`, the absolute one in proportion. What is exact stays so. */
export function widened(spec: OutputSpec, tolerance: number): OutputSpec {
  const { tol_rel_l2: relative, tol_max_abs: absolute } = spec;
  if (relative === undefined || relative >= tolerance) return spec;
  return {
    ...spec,
    tol_rel_l2: tolerance,
    ...(absolute === undefined ? {} : { tol_max_abs: (absolute * tolerance) / relative }),
  };
}

/**
 * @param perStep take the relative error for each index of the first axis
 */
export function compare(
  found: ArrayLike<number>,
  expected: ArrayLike<number>,
  spec: OutputSpec,
  perStep = spec.per_step ?? false,
): TensorReport {
  const tolRelL2 = spec.exact ? 0 : (spec.tol_rel_l2 ?? spec.tol_rel ?? null);
  const tolMaxAbs = spec.exact ? 0 : (spec.tol_max_abs ?? null);
  if (found.length !== expected.length) {
    return { status: 'fail', relL2: Number.NaN, maxAbs: Number.NaN, tolRelL2, tolMaxAbs };
  }
  const steps = perStep ? Math.max(1, spec.shape[0] ?? 1) : 1;
  const length = expected.length / steps;
  let relL2 = 0;
  let maxAbs = 0;
  let worstElement = 0;
  for (let step = 0; step < steps; step++) {
    let difference = 0;
    let norm = 0;
    for (let i = step * length; i < (step + 1) * length; i++) {
      const d = Math.abs(found[i]! - expected[i]!);
      difference += d * d;
      norm += expected[i]! * expected[i]!;
      if (!(d <= maxAbs)) maxAbs = d;
      const relative = d === 0 ? 0 : d / Math.max(Math.abs(expected[i]!), 1e-300);
      if (!(relative <= worstElement)) worstElement = relative;
    }
    const relative = difference === 0 ? 0 : Math.sqrt(difference / norm);
    if (!(relative <= relL2)) relL2 = relative;
  }
  let ok: boolean;
  if (spec.exact) ok = maxAbs === 0;
  else if (spec.tol_rel !== undefined) {
    relL2 = worstElement;
    ok = worstElement <= spec.tol_rel;
  } else {
    ok = maxAbs <= (tolMaxAbs ?? Number.POSITIVE_INFINITY);
    if (!spec.zero_in_exact_arithmetic) ok &&= relL2 <= (tolRelL2 ?? Number.POSITIVE_INFINITY);
  }
  return { status: ok ? 'ok' : 'fail', relL2, maxAbs, tolRelL2, tolMaxAbs };
}
