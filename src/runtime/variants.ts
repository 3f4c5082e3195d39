/**
 * @file Several ways to compute one operation, and which of them is taken.
 *
 * A layer describes its operation as a call of a `Family`. Each `Variant` of the family says whether it fits the call, what
 * it should cost, and which dispatches it needs. Which one is taken: the one that is forced; else one of those that were
 * measured, for this shape or one near it, chosen for the whole graph (selection.ts); else the one that should cost least.
 */
import { OptionError } from './errors.ts';
import type { Graph, Operation, Target } from './graph.ts';
import type { KernelCall } from './shader.ts';

/**
 * How exact a variant computes a call. `float32`: as exact as sums in float32 are, within the tolerance of every recorded
 * tensor. `reduced`: less, by an amount that its file states; taken only where a target asks for it.
 */
export type Accuracy = 'float32' | 'reduced';

/** Kinds of operations with more than one way to compute them. */
export const KINDS = ['conv2d', 'conv2d_gradient_strided', 'linear', 'attention', 'group_norm'] as const;
export type Kind = (typeof KINDS)[number];

/** Variants to be taken, wherever they fit: a whole name, or the part of it before its tile sizes. */
export type ForcedVariants = Readonly<Partial<Record<Kind, string>>>;

export interface Variant<Call> {
  /** Unique in its family. Tile sizes, if any, follow after a space: `registers 4x2`. */
  readonly name: string;
  accuracy(call: Call): Accuracy;
  /** Where it should win, in a few words. */
  readonly note: string;
  /** Whether it computes this call at all, and needs no more than the target has. */
  fits(target: Target, call: Call): boolean;
  /** What it should cost, in multiply-adds of vec4f: comparable within a family only. */
  cost(target: Target, call: Call): number;
  lower(graph: Graph, call: Call): readonly KernelCall[];
}

/** What the best variant of a call depends on. Calls of one form are compared by their sizes. */
export interface CallShape {
  /** What must be equal for a comparison to mean anything, for example `3x3 stride 1 f32`. */
  readonly form: string;
  readonly sizes: readonly number[];
}

export interface Family<Call> {
  readonly kind: Kind;
  readonly variants: readonly Variant<Call>[];
  shape(call: Call): CallShape;
}

/** A way to compute an operation and its gradient: what its variants in the families of both have in common. */
export interface Way<Call> {
  readonly name: string;
  /** `float32` if absent. */
  readonly accuracy?: Accuracy;
  /** Where it should win. */
  readonly note: string;
  fits(target: Target, call: Call): boolean;
  /** Comparable between ways only. */
  cost(target: Target, call: Call): number;
}

/** The family of one direction of an operation whose ways know both. */
export const familyOfWays = <Call, W extends Way<Call>>({
  kind,
  ways,
  fits = (way, target, call) => way.fits(target, call),
  lower,
  shape,
}: Pick<Family<Call>, 'kind' | 'shape'> & {
  readonly ways: readonly W[];
  readonly fits?: (way: W, target: Target, call: Call) => boolean;
  readonly lower: (way: W, graph: Graph, call: Call) => readonly KernelCall[];
}): Family<Call> => ({
  kind,
  variants: ways.map((way) => ({
    name: way.name,
    accuracy: () => way.accuracy ?? 'float32',
    note: way.note,
    fits: (target, call) => fits(way, target, call),
    cost: (target, call) => way.cost(target, call),
    lower: (graph, call) => lower(way, graph, call),
  })),
  shape,
});

/** One way to lower an operation. */
export interface Candidate {
  readonly name: string;
  readonly note: string;
  readonly cost: number;
  lower(): readonly KernelCall[];
}

/** An operation's ways, for whoever measures them. */
export interface Choice extends CallShape {
  readonly kind: Kind;
  /** The variant that is to be taken if it is among the candidates, or the part of its name before the tile sizes. */
  readonly forced: string | undefined;
  /** Those that may be taken, the one that should cost least first. */
  candidates(): readonly Candidate[];
  /** The one that a plan takes. @throws Error if none fits */
  chosen(): Candidate;
}

/** Choices of equal keys take the same variant. */
export const choiceKey = ({ kind, form, sizes }: Choice, candidates: readonly Candidate[]): string =>
  `${kind} ${form} ${sizes.join(' ')} ${candidates.map(({ name }) => name).join()}`;

/** The candidate that is to be taken whatever is known, if there is one. */
export const forcedAmong = (candidates: readonly Candidate[], { forced }: Choice): Candidate | undefined =>
  candidates.find(({ name }) => named(name, forced));

/** The parts of an operation that depend on the variant. */
export function variantsOf<Call>(graph: Graph, family: Family<Call>, call: Call): Pick<Operation, 'lower' | 'choice'> {
  const { kind } = family;
  const { target } = graph;
  const { form, sizes } = family.shape(call);
  // With more variants to be measured, it is another comparison.
  const shape: CallShape = { form: target.accuracy === 'reduced' ? `${form} reduced` : form, sizes };
  const forced = target.variants?.[kind];
  // They depend on the target and the call alone, and are asked for again and again.
  let known: readonly Candidate[] | null = null;
  const candidates = () => {
    known ??= candidatesOf(graph, family, call);
    return known;
  };
  const chosen = () => {
    const list = candidates();
    const selected = graph.selected.get(choiceKey(choice, list));
    const found = forcedAmong(list, choice) ?? list.find(({ name }) => name === selected) ?? list[0];
    if (!found) throw new Error(`no variant of ${kind} fits ${shape.form} ${shape.sizes.join(' x ')}`);
    return found;
  };
  const choice: Choice = { kind, ...shape, forced, candidates, chosen };
  return { choice, lower: () => chosen().lower() };
}

function candidatesOf<Call>(graph: Graph, { kind, variants }: Family<Call>, call: Call): Candidate[] {
  const { target } = graph;
  const forced = target.variants?.[kind];
  if (forced !== undefined && !variants.some(({ name }) => named(name, forced))) {
    throw new OptionError(
      `no variant of ${kind} is called "${forced}"; there are ${variants.map(({ name }) => name).join(', ')}`,
    );
  }
  return variants
    .filter((v) => v.accuracy(call) === 'float32' || target.accuracy === 'reduced' || named(v.name, forced))
    .filter((v) => v.fits(target, call))
    .map((v) => ({ name: v.name, note: v.note, cost: v.cost(target, call), lower: () => v.lower(graph, call) }))
    .sort((a, b) => a.cost - b.cost);
}

/** The name of a variant without its tile sizes. */
export const wayOf = (name: string): string => name.replace(/ [\dx]+$/, '');

/** Whether a variant goes by `wanted`: its name, or the name without its tile sizes. */
const named = (name: string, wanted: string | undefined): boolean =>
  wanted !== undefined && (name === wanted || name.startsWith(`${wanted} `));

/**
 * Forced variants from text: `conv2d=winograd 2x2,linear=registers`.
 *
 * @throws OptionError if it has another form, or a kind that does not exist
 */
export function parseVariants(text: string): ForcedVariants {
  const pairs = text.split(',').map((part) => part.split('=').map((word) => word.trim()));
  for (const [kind, name, more] of pairs) {
    if (!KINDS.some((known) => known === kind) || !name || more !== undefined) {
      throw new OptionError(
        `variants are written KIND=NAME, separated by commas, the kind one of ${KINDS.join(', ')}; found "${text}"`,
      );
    }
  }
  return Object.fromEntries(pairs) as ForcedVariants;
}
