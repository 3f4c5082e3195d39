/**
 * @file GroupNorm by spans, for CPU adapters: one invocation for each run of whole groups, so that none waits for another.
 * Invocations are few: for a GPU too few.
 */
import spansShader from '../../shaders/group_norm/spans.wgsl';
import spansBackward from '../../shaders/group_norm/spans_backward.wgsl';
import { COSTS } from './group_norm_call.ts';
import { applyCost } from './group_norm_segments.ts';
import { makesResult, spanReads, spansOf, wholeGroups } from './group_norm_whole_groups.ts';

/** THREADS of the shaders. */
const THREADS = 4;

/** With so few reads an invocation, making the result there takes less time than one more dispatch. */
const SMALL_SPAN_READS = 2048;

export const spans = wholeGroups({
  name: 'spans',
  note: 'few dispatches: for CPU adapters',
  statistics: spansShader,
  gradientSums: spansBackward,
  reads: 1,
  keepsUpstream: true,
  fits: () => true,
  smallSpanReads: SMALL_SPAN_READS,
  grid: (call) => [Math.ceil(spansOf(call) / THREADS), call.x.shape.n, 1],

  cost({ adapter }, call) {
    const { lanes, load, dispatch } = COSTS[adapter];
    const reads = Math.ceil((call.x.shape.n * spansOf(call)) / lanes) * spanReads(call) * load;
    return makesResult(call, SMALL_SPAN_READS) ? dispatch + 4 * reads : 2 * dispatch + reads + applyCost(adapter, call);
  },
});
