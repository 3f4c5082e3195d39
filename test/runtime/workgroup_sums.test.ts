import { expect, test } from 'vitest';
import silu from '../../shaders/elementwise/silu.wgsl';
import groupNorm from '../../shaders/group_norm/workgroup.wgsl';
import groupNormBackward from '../../shaders/group_norm/workgroup_backward.wgsl';
import linear from '../../shaders/linear/shared.wgsl';
import { sumBySubgroups } from '../../src/runtime/workgroup_sums.ts';

test.each([groupNorm, groupNormBackward, linear])('$name: the tree is exchanged, and nothing else', ({ source }) => {
  const text = sumBySubgroups(source);
  expect(source).not.toContain('subgroupAdd');
  expect(text.startsWith('enable subgroups;')).toBe(true);
  expect(text.match(/fn workgroup_sum/g)).toHaveLength(1);
  expect(text).toContain('subgroupAdd(value)');
  expect(text).not.toContain('half /= 2u');
  expect(text.split('fn main')[1]).toBe(source.split('fn main')[1]);
});

test('a kernel without such a sum is refused', () => {
  expect(() => sumBySubgroups(silu.source)).toThrow('no function workgroup_sum');
});
