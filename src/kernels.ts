/**
 * @file Everything of index.ts, and below it: single layers, the graph and the plan, for those who compare kernels or
 * build networks of their own. This surface moves with the engine; index.ts is the one that keeps still.
 *
 *   const graph = new Graph(runtime.target);
 *   const x = graph.input('x', { n: 1, c: 64, h: 32, w: 32 });
 *   const y = conv2d.forward({ graph, weights }, { in: 64, out: 64, kernel: 3, stride: 1 }, 'conv', x);
 *   const plan = await Plan.create(runtime, graph, [y]);
 *   plan.write(x, values);
 *   await plan.run();
 *   const result = await plan.read(y);
 */
export * from './index.ts';
export * as attention from './layers/attention.ts';
export type { Builder, Parameter } from './layers/builder.ts';
export * as conv2d from './layers/conv2d.ts';
export * as elementwise from './layers/elementwise.ts';
export * as groupNorm from './layers/group_norm.ts';
export * as linear from './layers/linear.ts';
export * as resample from './layers/resample.ts';
export type { DivisionRule } from './runtime/divide.ts';
export { Graph, type Target } from './runtime/graph.ts';
export { Plan, type PlanOptions } from './runtime/plan.ts';
export type { Activation, Shape, Tensor } from './runtime/resources.ts';
export { WeightShapes, Weights } from './runtime/weights.ts';
