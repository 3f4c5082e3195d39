/**
 * @file The operation list: what layers append to, and where gradients come from.
 *
 * A tensor is a value with one producer; nothing here owns a buffer. `backward` walks the list in reverse and asks each
 * operation for its adjoint, which is again operations on the same list. What nobody reads is dropped by the plan, so
 * "gradient of the input only" needs no mode of its own.
 */

import {
  type Activation,
  activationBytes,
  describeShape,
  type Origin,
  type Shape,
  sameShape,
  type Tensor,
  type Uniform,
} from './resources.ts';
import { select } from './selection.ts';
import type { KernelCall, Shader, ShaderInterface } from './shader.ts';
import type { SubgroupMatrix } from './subgroup_matrix.ts';
import type { Tuning } from './tuning.ts';
import type { Accuracy, Choice, ForcedVariants } from './variants.ts';

/** What kernels are chosen for: known without a device, so that a plan can be costed before one exists. */
export interface Target {
  /** A software adapter runs on the CPU: loads and barriers are dear there, occupancy means nothing. */
  readonly adapter: 'cpu' | 'gpu';
  /** Compilation takes seconds for a large unrolled kernel (Mesa's LLVM pipeline), so that smaller tiles win overall. */
  readonly slowCompiler: boolean;
  /** WebGPU features that kernels may use; none by default. */
  readonly features?: ReadonlySet<string> | undefined;
  /** Bytes of workgroup memory that a kernel may take; WebGPU's default if absent. */
  readonly workgroupBytes?: number | undefined;
  /** Bytes that one binding may have; WebGPU's default if absent. */
  readonly bindingBytes?: number | undefined;
  /** Present if the device multiplies float16 matrices held by a subgroup into float32 sums. */
  readonly subgroupMatrix?: SubgroupMatrix | undefined;
  /** The least exact variants that may be taken; `float32` by default. */
  readonly accuracy?: Accuracy | undefined;
  /** Variants forced for kinds of operations, wherever they fit. */
  readonly variants?: ForcedVariants | undefined;
  /** What is known of the variants' times; without it they are taken by their cost. */
  readonly tuning?: Tuning | undefined;
}

/** WebGPU's default limit of workgroup memory, in bytes. */
const DEFAULT_WORKGROUP_BYTES = 16384;

export const workgroupBytes = (target: Target): number => target.workgroupBytes ?? DEFAULT_WORKGROUP_BYTES;

/** @throws Error if the device has none: for variants that only fit where it has */
export function requiredSubgroupMatrix({ subgroupMatrix }: Target): SubgroupMatrix {
  if (!subgroupMatrix) throw new Error('this device has no matrices held by subgroups');
  return subgroupMatrix;
}

export const hasFeature = ({ features }: Target, name: string): boolean => features?.has(name) === true;

export interface AdjointRequest {
  /** Gradients of the operation's outputs, in order; null where none flows. At least one is not null. */
  readonly outputs: readonly (Activation | null)[];
  /** Which inputs need a gradient. */
  readonly needs: readonly boolean[];
  /**
   * Hands over the gradient that input `i` has collected from its other readers. An adjoint that calls this promises to
   * return the sum; one that does not leaves the addition to the graph.
   */
  take(i: number): Activation | null;
}

export interface Operation {
  readonly name: string;
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** State that is changed in place: such an operation is never dropped. */
  readonly updates?: readonly Tensor[];
  /** The dispatches, in order. Called once a plan, and by whoever compares ways: each call makes tensors of its own. */
  lower(): readonly KernelCall[];
  /** Present if there is more than one way to lower it; `lower` takes one of its candidates. */
  readonly choice?: Choice;
  /** Gradients of the inputs, in order. Absent for operations without a gradient. */
  adjoint?(request: AdjointRequest): readonly (Activation | null)[];
}

/** An operation on the list, with the layer that appended it. */
export interface ListedOperation extends Operation {
  /** Path of `within` names, for example `unet/input_blocks.1.0`; "" outside of any. */
  readonly layer: string;
}

/** Adds two gradients of one tensor; given by the layers, so that the graph knows no kernel. */
export type Adder = (graph: Graph, a: Activation, b: Activation) => Activation;

export class Graph {
  readonly target: Target;
  readonly operations: ListedOperation[] = [];
  /** Tensors that the host writes, or that keep their value from run to run. */
  readonly persistent = new Set<Tensor>();
  /** Values that persistent tensors have from the start; zeros where nothing is said. */
  readonly fills = new Map<Activation, number>();
  readonly uniforms: Uniform[] = [];
  #ids = 0;
  #layer = '';
  #selected: { readonly state: string; readonly names: ReadonlyMap<string, string> } | null = null;
  #selecting = false;

  constructor(target: Target) {
    this.target = target;
  }

  activation(name: string, shape: Shape, origin?: Origin): Activation {
    const tensor = { kind: 'tensor', id: this.#ids++, name, shape, bytes: activationBytes(shape) } as const;
    return origin ? { ...tensor, origin } : tensor;
  }

  /** An intermediate of `words` 32-bit words in a layout of its own. */
  array(name: string, words: number): Tensor {
    return { kind: 'tensor', id: this.#ids++, name, shape: null, bytes: Math.max(16, words * 4) };
  }

  input(name: string, shape: Shape): Activation {
    const tensor = this.activation(name, shape);
    this.persistent.add(tensor);
    return tensor;
  }

  /** A tensor that holds one value everywhere. */
  constant(name: string, shape: Shape, value: number): Activation {
    const tensor = this.input(name, shape);
    this.fills.set(tensor, value);
    return tensor;
  }

  inputArray(name: string, words: number): Tensor {
    const tensor = this.array(name, words);
    this.persistent.add(tensor);
    return tensor;
  }

  /** The uniform block called `name` of a shader. Its values start at zero and are set with `Plan.set`. */
  uniform<I extends ShaderInterface>(shader: Shader<I>, name: keyof I['uniforms'] & string): Uniform {
    const uniform: Uniform = { kind: 'uniform', id: this.#ids++, name, block: shader.uniforms[name]! };
    this.uniforms.push(uniform);
    return uniform;
  }

  append(operation: Operation): void {
    this.operations.push({ ...operation, layer: this.#layer });
  }

  /**
   * The variants that the operations so far take, by what is known of their times (selection.ts). How one operation is lowered
   * may depend on another's variant: while they are being selected, none is.
   */
  get selected(): ReadonlyMap<string, string> {
    const { tuning } = this.target;
    if (!tuning || this.#selecting) return new Map();
    const state = `${this.operations.length} ${tuning.revision}`;
    if (this.#selected?.state !== state) {
      this.#selecting = true;
      try {
        this.#selected = { state, names: select(this.operations, tuning) };
      } finally {
        this.#selecting = false;
      }
    }
    return this.#selected.names;
  }

  /** Runs `body`; what it appends, and the gradients of that, belong to layer `name` of the current layer. */
  within<T>(name: string, body: () => T): T {
    return this.#inLayer(this.#layer === '' ? name : `${this.#layer}/${name}`, body);
  }

  #inLayer<T>(layer: string, body: () => T): T {
    const outer = this.#layer;
    this.#layer = layer;
    try {
      return body();
    } finally {
      this.#layer = outer;
    }
  }

  /**
   * Appends the operations that carry `seed`, the gradient with respect to `output`, back to `input`.
   *
   * @returns the gradient with respect to `input`, of its shape
   * @throws Error if `output` does not depend on `input`, or an operation between them has no gradient
   */
  backward(output: Activation, seed: Activation, input: Activation, add: Adder): Activation {
    if (!sameShape(output.shape, seed.shape)) {
      throw new Error(
        `the gradient of ${output.name} must have its shape ${describeShape(output.shape)}, found ${describeShape(seed.shape)}`,
      );
    }
    const active = new Set<Tensor>([input]);
    const forward = [...this.operations];
    for (const operation of forward) {
      if (operation.inputs.some((t) => active.has(t))) for (const t of operation.outputs) active.add(t);
    }
    if (!active.has(output)) throw new Error(`${output.name} does not depend on ${input.name}`);

    const gradients = new Map<Tensor, Activation>([[output, seed]]);
    for (const operation of forward.reverse()) {
      const outputs = operation.outputs.map((t) => gradients.get(t) ?? null);
      const needs = operation.inputs.map((t) => active.has(t));
      if (outputs.every((g) => g === null) || !needs.includes(true)) continue;
      const { adjoint } = operation;
      if (!adjoint) throw new Error(`${operation.name} has no gradient`);
      this.#inLayer(operation.layer, () => {
        const taken = new Set<Tensor>();
        const take = (i: number) => {
          const tensor = operation.inputs[i]!;
          const collected = gradients.get(tensor) ?? null;
          if (collected) taken.add(tensor);
          return collected;
        };
        const results = adjoint({ outputs, needs, take });
        operation.inputs.forEach((tensor, i) => {
          const result = results[i];
          if (!needs[i] || !result) return;
          const collected = gradients.get(tensor);
          gradients.set(tensor, collected && !taken.delete(tensor) ? add(this, collected, result) : result);
        });
      });
    }
    const gradient = gradients.get(input);
    if (!gradient) throw new Error(`no gradient reaches ${input.name}`);
    return gradient;
  }
}
