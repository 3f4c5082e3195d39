/**
 * @file What every layer is given: the operation list it appends to, and the names and shapes of the parameters.
 *
 * A layer is one file: `parameters` (names and shapes, in PyTorch's order), `forward`, which appends the operation with its
 * adjoint beside it, and `cost`. Where there are several ways to compute it, each variant is a file too (runtime/variants.ts).
 * Layers hold no state.
 */
import type { Graph } from '../runtime/graph.ts';
import type { WeightShapes } from '../runtime/weights.ts';

export interface Builder {
  readonly graph: Graph;
  readonly weights: WeightShapes;
}

/** A parameter of a model, under its name in guided-diffusion's `state_dict`. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
}
