/**
 * @file Golden kinds `block.*`, `unet`, `superres` and `classifier`.
 */
import { classifierArguments, unetArguments } from '../../checkpoints/config.ts';
import { buildModel, type Model } from '../../checkpoints/model.ts';
import * as attentionBlock from '../../layers/attention_block.ts';
import * as classifier from '../../layers/classifier.ts';
import { timestepEmbedding } from '../../layers/embedding.ts';
import * as resBlock from '../../layers/res_block.ts';
import * as superResolution from '../../layers/super_resolution.ts';
import * as unet from '../../layers/unet.ts';
import type { Runtime } from '../../runtime/device.ts';
import type { WeightOptions } from '../../runtime/weights.ts';
import { type Evaluation, evaluate, type Results } from './evaluate.ts';
import type { CaseTensors, GoldenCase, GoldenFolder } from './manifest.ts';
import { shapeOf } from './operations.ts';

/** The model a case names. The caller disposes it. @throws Error if this version cannot build such a model */
export function goldenModel(runtime: Runtime, folder: GoldenFolder, id: string): Model {
  const entry = folder.models[id];
  if (!entry) throw new Error(`the manifest has no model ${id}`);
  const described = { diffusion: null, classes: null, nullClass: null };
  const checkpoint = folder.checkpoint(entry.file);
  // Where a format is asked for, kernels read it as it is, on every adapter.
  const storage: WeightOptions = folder.format === null ? {} : { storage: 'stored' };
  switch (entry.class_name) {
    case 'UNetModel':
      return buildModel(
        runtime,
        checkpoint,
        { ...described, kind: 'unet', model: unetArguments(entry.config) },
        storage,
      );
    case 'SuperResModel': {
      const config = { ...described, kind: 'super_resolution', model: unetArguments(entry.config) } as const;
      return buildModel(runtime, checkpoint, config, storage);
    }
    case 'EncoderUNetModel':
      return buildModel(
        runtime,
        checkpoint,
        { ...described, kind: 'classifier', model: classifierArguments(entry.config) },
        storage,
      );
    default:
      throw new Unsupported(`models of class ${entry.class_name}`);
  }
}

/** Says that this version has no way to run a case, in contrast to running it wrongly. */
export class Unsupported extends Error {}

const timesteps = (e: Evaluation, tensors: CaseTensors, channels: number) => {
  const t = tensors.numbers('t');
  return e.input('timesteps', { n: t.length, h: 1, w: 1, c: channels }, timestepEmbedding(t, channels));
};

type Runner = (runtime: Runtime, golden: GoldenCase, tensors: CaseTensors, folder: GoldenFolder) => Promise<Results>;

const resBlockCase: Runner = (runtime, { config }, tensors) => {
  const spec: resBlock.ResBlock = {
    channels: config.channels,
    embedding: config.emb_channels,
    out: config.out_channels ?? config.channels,
    scaleShift: config.use_scale_shift_norm ?? false,
    resample: config.up ? 'up' : config.down ? 'down' : null,
    convSkip: config.use_conv ?? false,
    rescale: false,
  };
  return evaluate(runtime, tensors.parameters('block'), (e) => {
    const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
    const emb = e.input('emb', shapeOf(tensors.values('emb').shape), tensors.floats('emb'));
    const projections = resBlock.projectEmbeddings(e, [{ spec, name: 'block' }], emb);
    const y = resBlock.forward(e, spec, 'block', x, projections);
    e.output('out', y);
    e.gradient('grad_x', y, tensors.floats('upstream'), x);
    e.gradient('grad_emb', y, tensors.floats('upstream'), emb);
  });
};

const attentionBlockCase: Runner = (runtime, { config }, tensors) => {
  const { channels, num_heads = 1, num_head_channels = -1, use_new_attention_order = false } = config;
  const heads = attentionBlock.headCount(channels, num_heads, num_head_channels);
  const order = use_new_attention_order ? 'new' : 'legacy';
  const spec: attentionBlock.AttentionBlock = { channels, heads, order, rescale: false };
  return evaluate(runtime, tensors.parameters('block'), (e) => {
    const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
    const y = attentionBlock.forward(e, spec, 'block', x);
    e.output('out', y);
    e.gradient('grad_x', y, tensors.floats('upstream'), x);
  });
};

const unetCase: Runner = async (runtime, { config, outputs }, tensors, folder) => {
  const model = goldenModel(runtime, folder, config.model);
  if (!model.isUNet()) throw new Error(`${config.model} is no U-Net`);
  const args = model.config.model;
  try {
    return await evaluate(runtime, model.weights, (e) => {
      const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
      const labels = args.num_classes === null ? null : e.words('y', Uint32Array.from(tensors.numbers('y')));
      const inputs = { x, timesteps: timesteps(e, tensors, args.model_channels), labels };
      const y = unet.forward(e, args, inputs, (name, value) => {
        if (outputs?.[`trace.${name}`]) e.output(`trace.${name}`, value);
      });
      e.output('out', y);
      if (outputs?.['grad_x']) e.gradient('grad_x', y, tensors.floats('upstream'), x);
    });
  } finally {
    model.dispose();
  }
};

const superResolutionCase: Runner = async (runtime, { config }, tensors, folder) => {
  const model = goldenModel(runtime, folder, config.model);
  if (!model.isSuperResolution()) throw new Error(`${config.model} is no super-resolution model`);
  const args = model.config.model;
  try {
    return await evaluate(runtime, model.weights, (e) => {
      const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
      const lowRes = e.input('low_res', shapeOf(tensors.values('low_res').shape), tensors.floats('low_res'));
      const labels = args.num_classes === null ? null : e.words('y', Uint32Array.from(tensors.numbers('y')));
      const inputs = { x, lowRes, timesteps: timesteps(e, tensors, args.model_channels), labels };
      e.output('out', superResolution.forward(e, args, inputs));
    });
  } finally {
    model.dispose();
  }
};

const classifierCase: Runner = async (runtime, { config, outputs }, tensors, folder) => {
  const model = goldenModel(runtime, folder, config.model);
  if (!model.isClassifier()) throw new Error(`${config.model} is no classifier`);
  const args = model.config.model;
  try {
    const results = await evaluate(runtime, model.weights, (e) => {
      const x = e.input('x', shapeOf(tensors.values('x').shape), tensors.floats('x'));
      const inputs = { x, timesteps: timesteps(e, tensors, args.model_channels) };
      const logits = classifier.forward(e, args, inputs, (name, value) => {
        if (outputs?.[`trace.${name}`]) e.output(`trace.${name}`, value);
      });
      const { selected } = classifier.select(e.graph, logits, e.words('y', Uint32Array.from(tensors.numbers('y'))));
      e.output('logits', logits);
      e.output('selected', selected);
      e.gradient('grad_x', selected, new Float32Array(selected.shape.n).fill(1), x);
    });
    const selected = results['selected']!;
    return { ...results, cross_entropy: [-selected.reduce((sum, value) => sum + value, 0) / selected.length] };
  } finally {
    model.dispose();
  }
};

export const models: Readonly<Record<string, Runner>> = {
  'block.resblock': resBlockCase,
  'block.attention': attentionBlockCase,
  unet: unetCase,
  superres: superResolutionCase,
  classifier: classifierCase,
};
