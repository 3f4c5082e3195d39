/**
 * @file ADM's U-Net and noisy classifier, written once over the operators that a contestant supplies. Parameters have the
 * names of guided-diffusion's state dict.
 */
import type { ClassifierCase, NetworkCase, UNetCase } from './cases.ts';
import type { MapSize, Operators } from './operators.ts';

interface Feature<T> extends MapSize {
  readonly value: T;
}

/** Layers with their parameters, over maps that know their size. */
function layersOf<T>(o: Operators<T>, sizes: NetworkCase) {
  const width = 4 * sizes.base;
  const parameters = (name: string, shape: readonly number[]) =>
    [o.parameter(`${name}.weight`, shape), o.parameter(`${name}.bias`, [shape[0]!])] as const;
  const linear = (name: string, x: T, size: { in: number; out: number }): T =>
    o.linear(x, ...parameters(name, [size.out, size.in]), size);
  const conv = (name: string, x: Feature<T>, out: number, kernel: number): Feature<T> => {
    const { c, h, w } = x;
    const value = o.conv(x.value, ...parameters(name, [out, c, kernel, kernel]), { in: c, out, kernel, h, w });
    return { value, c: out, h, w };
  };
  const groupNorm = (name: string, x: Feature<T>): Feature<T> => ({
    ...x,
    value: o.groupNorm(x.value, ...parameters(name, [x.c]), x),
  });
  const silu = (x: Feature<T>): Feature<T> => ({ ...x, value: o.silu(x.value) });
  const resample = (x: Feature<T>, way: 'up' | 'down'): Feature<T> =>
    way === 'up'
      ? { value: o.up(x.value, x), c: x.c, h: x.h * 2, w: x.w * 2 }
      : { value: o.down(x.value, x), c: x.c, h: x.h / 2, w: x.w / 2 };
  const heads = (c: number): number => Math.max(1, Math.floor(c / sizes.headChannels));

  return {
    conv,
    groupNorm,
    silu,
    heads,
    /** Of the timestep, with the SiLU that every block would begin with. */
    embed: (embedding: T): T => {
      const hidden = o.silu(linear('time_embed.0', embedding, { in: sizes.base, out: width }));
      return o.silu(linear('time_embed.2', hidden, { in: width, out: width }));
    },
    residual(name: string, x: Feature<T>, embedding: T, out: number, way?: 'up' | 'down'): Feature<T> {
      let h = silu(groupNorm(`${name}.in_layers.0`, x));
      let skip = x;
      if (way) {
        h = resample(h, way);
        skip = resample(skip, way);
      }
      h = conv(`${name}.in_layers.2`, h, out, 3);
      const scaleAndShift = linear(`${name}.emb_layers.1`, embedding, { in: width, out: 2 * out });
      h = groupNorm(`${name}.out_layers.0`, h);
      h = silu({ ...h, value: o.scaleShift(h.value, scaleAndShift, h) });
      h = conv(`${name}.out_layers.3`, h, out, 3);
      if (skip.c !== out) skip = conv(`${name}.skip_connection`, skip, out, 1);
      return { ...h, value: o.add(skip.value, h.value) };
    },
    attention(name: string, x: Feature<T>): Feature<T> {
      const qkv = conv(`${name}.qkv`, groupNorm(`${name}.norm`, x), 3 * x.c, 1);
      const value = o.attention(qkv.value, { c: x.c, h: x.h, w: x.w, heads: heads(x.c) });
      return { ...x, value: o.add(x.value, conv(`${name}.proj_out`, { ...x, value }, x.c, 1).value) };
    },
  };
}

/** Both networks' way down and middle. @returns also the maps that a U-Net's way up takes in */
function encoder<T>(layers: ReturnType<typeof layersOf<T>>, sizes: NetworkCase, x: T, embedding: T) {
  const { base, mult, size } = sizes;
  let h = layers.conv('input_blocks.0.0', { value: x, c: sizes.in, h: size, w: size }, base * mult[0]!, 3);
  const skips = [h];
  mult.forEach((factor, level) => {
    for (let i = 0; i < sizes.blocks; i++) {
      const name = `input_blocks.${skips.length}`;
      h = layers.residual(`${name}.0`, h, embedding, factor * base);
      if (sizes.attention.includes(h.h)) h = layers.attention(`${name}.1`, h);
      skips.push(h);
    }
    if (level === mult.length - 1) return;
    h = layers.residual(`input_blocks.${skips.length}.0`, h, embedding, h.c, 'down');
    skips.push(h);
  });
  h = layers.residual('middle_block.0', h, embedding, h.c);
  h = layers.attention('middle_block.1', h);
  return { h: layers.residual('middle_block.2', h, embedding, h.c), skips };
}

/** @returns [batch, out, size, size] */
export function unet<T>(o: Operators<T>, sizes: UNetCase, x: T, timestep: T): T {
  const layers = layersOf(o, sizes);
  const embedding = layers.embed(timestep);
  const { h: encoded, skips } = encoder(layers, sizes, x, embedding);
  let h = encoded;
  let block = 0;
  for (let level = sizes.mult.length - 1; level >= 0; level--) {
    for (let i = 0; i <= sizes.blocks; i++) {
      const name = `output_blocks.${block++}`;
      const skip = skips.pop()!;
      const both = { ...h, c: h.c + skip.c, value: o.concatenate(h.value, skip.value) };
      h = layers.residual(`${name}.0`, both, embedding, sizes.mult[level]! * sizes.base);
      const attends = sizes.attention.includes(h.h);
      if (attends) h = layers.attention(`${name}.1`, h);
      if (level > 0 && i === sizes.blocks) h = layers.residual(`${name}.${attends ? 2 : 1}`, h, embedding, h.c, 'up');
    }
  }
  return layers.conv('out.2', layers.silu(layers.groupNorm('out.0', h)), sizes.out, 3).value;
}

/** @returns logits, [batch, classes] */
export function classifier<T>(o: Operators<T>, sizes: ClassifierCase, x: T, timestep: T): T {
  const layers = layersOf(o, sizes);
  const { h: encoded } = encoder(layers, sizes, x, layers.embed(timestep));
  const h = layers.silu(layers.groupNorm('out.0', encoded));
  return o.attentionPool(
    h.value,
    { c: h.c, h: h.h, w: h.w, heads: layers.heads(h.c) },
    {
      position: o.parameter('out.2.positional_embedding', [h.c, h.h * h.w + 1]),
      qkvWeight: o.parameter('out.2.qkv_proj.weight', [3 * h.c, h.c]),
      qkvBias: o.parameter('out.2.qkv_proj.bias', [3 * h.c]),
      outWeight: o.parameter('out.2.c_proj.weight', [sizes.classes, h.c]),
      outBias: o.parameter('out.2.c_proj.bias', [sizes.classes]),
    },
  );
}

/** The network of a case; of a gradient the network that it is taken through. */
export const forward = <T>(o: Operators<T>, sizes: NetworkCase, x: T, timestep: T): T =>
  sizes.op === 'unet' ? unet(o, sizes, x, timestep) : classifier(o, sizes, x, timestep);
