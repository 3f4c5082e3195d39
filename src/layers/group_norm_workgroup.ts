/**
 * @file GroupNorm by workgroups, for GPUs: a workgroup for each run of whole groups, with sums in workgroup memory
 * or by subgroup operations.
 */
import workgroupShader from '../../shaders/group_norm/workgroup.wgsl';
import workgroupBackward from '../../shaders/group_norm/workgroup_backward.wgsl';
import { hasFeature } from '../runtime/graph.ts';
import { barriersOf } from '../runtime/workgroup_sums.ts';
import { COSTS, type GroupNormWay } from './group_norm_call.ts';
import { applyCost } from './group_norm_segments.ts';
import { makesResult, spanQuads, spansOf, wholeGroups } from './group_norm_whole_groups.ts';

/** THREADS and MAX_SPAN of the shaders. */
const THREADS = 128;
const MAX_SPAN = 16;

/** With so few quads a workgroup, making the result there takes less time than one more dispatch. */
const SMALL_SPAN_READS = 4096;

export const workgroup = way(false);
export const subgroups = way(true);

function way(subgroups: boolean): GroupNormWay {
  return wholeGroups({
    name: subgroups ? 'subgroups' : 'workgroup',
    note: `few dispatches, with barriers${subgroups ? ' and subgroup operations' : ''}: for GPUs`,
    statistics: workgroupShader,
    gradientSums: workgroupBackward,
    reads: 2,
    keepsUpstream: false,
    subgroups,
    fits: (target, call) => spanQuads(call) <= MAX_SPAN && (!subgroups || hasFeature(target, 'subgroups')),
    smallSpanReads: SMALL_SPAN_READS,
    grid: (call) => [spansOf(call), call.x.shape.n, 1],

    cost({ adapter }, call) {
      const { lanes, load, dispatch, barrier } = COSTS[adapter];
      const { n, h, w } = call.x.shape;
      const rounds = Math.max(1, (n * spansOf(call) * THREADS) / lanes);
      const reads = spanQuads(call) * Math.ceil((h * w) / THREADS) * load;
      const waits = 2 * spanQuads(call) * barriersOf(THREADS, subgroups) * barrier;
      const statistics = rounds * (2 * reads + waits);
      return makesResult(call, SMALL_SPAN_READS)
        ? dispatch + statistics + 2 * rounds * reads
        : 2 * dispatch + statistics + applyCost(adapter, call);
    },
  });
}
