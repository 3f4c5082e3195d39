"""ADM's U-Net and noisy classifier (Dhariwal & Nichol 2021), with the parameter names of openai/guided-diffusion.

Images are [N, C, H, W], timesteps [N] (they may be fractional), labels [N]. The modules work in the dtype of their
parameters, so the same code trains in float32 or mixed precision and is checked in float64 (check.py).

The constructors take guided-diffusion's keyword arguments, which is also what `__metadata__.config` of an exported
file holds. Arguments that change nothing in the arithmetic (`use_fp16`, `use_checkpoint`, `dims`) are not known here.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

GROUPS = 32


def timestep_embedding(timesteps, dim, max_period=10000):
    """Cosines, then sines, of t * max_period^(-i / half): [N] -> [N, dim] in float64; a zero column if dim is odd.

    In float32 the angles near t = 1000 are off by 4e-5, so the caller casts the result, not the input.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float64))
    angles = timesteps.double()[:, None] * frequencies.to(timesteps.device)[None]
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def normalization(channels):
    return nn.GroupNorm(GROUPS, channels)


def zeroed(module):
    """The last layer of a residual branch starts at zero, so that the branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TimestepSequential(nn.Sequential):
    """A block of the model: residual blocks are given the embedding, other layers are not."""

    def forward(self, x, embedding):
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class Upsample(nn.Module):
    """Nearest neighbour, twice the size, and a 3 x 3 convolution unless `conv` is false."""

    def __init__(self, channels, conv):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Half the size: a 3 x 3 convolution of stride 2, or the mean of 2 x 2 pixels."""

    def __init__(self, channels, conv):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x):
        return self.op(x)


class ResBlock(nn.Module):
    """Norm, SiLU, (resampling,) convolution, twice, around a skip connection that is resampled too.

    The projected embedding scales and shifts the second norm's result, or without `scale_shift` is added before it.
    """

    def __init__(self, channels, embedding, out, dropout=0.0, scale_shift=False, resample=None):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = {None: nn.Identity, "up": lambda: Upsample(channels, False),
                         "down": lambda: Downsample(channels, False)}[resample]()
        self.in_layers = nn.Sequential(normalization(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(
            normalization(out), nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv2d(out, out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x, embedding):
        norm, silu, conv = self.in_layers
        h = conv(self.resample(silu(norm(x))))
        projected = self.emb_layers(embedding)[:, :, None, None]
        norm, silu, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = projected.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + projected)
        h = conv(dropout(silu(h)))
        return self.skip_connection(self.resample(x)) + h


def attend(qkv, heads, new_order):
    """[N, 3 * heads * c, T] -> [N, heads * c, T].

    The channels of `qkv` are heads x (q, k, v) x c, or in the new order (q, k, v) x heads x c. q and k are each scaled
    by c^(-1/4) rather than their product by c^(-1/2): the same, but it cannot overflow in float16.
    """
    n, width, length = qkv.shape
    c = width // (3 * heads)
    if new_order:
        q, k, v = qkv.reshape(n, 3, heads, c, length).unbind(1)
    else:
        q, k, v = qkv.reshape(n, heads, 3, c, length).unbind(2)
    scale = c ** -0.25
    scores = torch.einsum("nhct,nhcs->nhts", q * scale, k * scale)
    # A softmax over many pixels loses too much in float16 or bfloat16.
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    return torch.einsum("nhts,nhcs->nhct", weights, v).reshape(n, heads * c, length)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, with norm, projection and residual."""

    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x):
        flat = x.flatten(2)
        mixed = attend(self.qkv(self.norm(flat)), self.heads, self.new_order)
        return (flat + self.proj_out(mixed)).reshape(x.shape)


class AttentionPool(nn.Module):
    """CLIP's pool: a token that holds the mean of all pixels asks them, and its answer is projected.

    [N, C, S, S] -> [N, out]. The positional embedding fixes S.
    """

    def __init__(self, size, channels, head_channels, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, size ** 2 + 1) / channels ** 0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)
        self.heads = channels // head_channels

    def pooled(self, x):
        """The mean token's answer before its projection, [N, C]."""
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(-1, keepdim=True), tokens], dim=-1) + self.positional_embedding
        return attend(self.qkv_proj(tokens), self.heads, True)[:, :, 0]

    def forward(self, x):
        return self.c_proj(self.pooled(x)[:, :, None])[:, :, 0]


class Encoder(nn.Module):
    """What U-Net and classifier share: the timestep's embedding and the blocks down to the middle."""

    def __init__(self, *, image_size, in_channels, model_channels, out_channels, num_res_blocks, attention_resolutions,
                 dropout=0.0, channel_mult=(1, 2, 4, 8), conv_resample=True, num_classes=None, num_heads=1,
                 num_head_channels=-1, use_scale_shift_norm=False, resblock_updown=False,
                 use_new_attention_order=False):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.num_classes = num_classes
        embedding = 4 * model_channels

        def res(channels, out, resample=None):
            return ResBlock(channels, embedding, out, dropout, use_scale_shift_norm, resample)

        def attention(channels, heads=num_heads):
            if num_head_channels != -1:
                assert channels % num_head_channels == 0, f"{channels} channels in heads of {num_head_channels}"
                heads = channels // num_head_channels
            return AttentionBlock(channels, heads, use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)

        # int() truncates: the released 512 models start at half the width.
        channels = int(channel_mult[0] * model_channels)
        self.input_blocks = nn.ModuleList([TimestepSequential(nn.Conv2d(in_channels, channels, 3, padding=1))])
        widths = [channels]
        factor = 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                out = int(mult * model_channels)
                layers = [res(channels, out)]
                channels = out
                if factor in attention_resolutions:
                    layers.append(attention(channels))
                self.input_blocks.append(TimestepSequential(*layers))
                widths.append(channels)
            if level < len(channel_mult) - 1:
                down = res(channels, channels, "down") if resblock_updown else Downsample(channels, conv_resample)
                self.input_blocks.append(TimestepSequential(down))
                widths.append(channels)
                factor *= 2
        self.middle_block = TimestepSequential(res(channels, channels), attention(channels), res(channels, channels))

        # For the half that follows; plain attributes, so they are no part of the state.
        self._widths, self._factor, self._channels = widths, factor, channels
        self._res, self._attention = res, attention

    def embed(self, timesteps, labels):
        table = timestep_embedding(timesteps, self.model_channels)
        embedding = self.time_embed(table.to(self.time_embed[0].weight.dtype))
        assert (labels is None) == (self.num_classes is None), "labels go with models that have classes"
        return embedding if labels is None else embedding + self.label_emb(labels)


class UNet(Encoder):
    """UNetModel: x_t, t (and y) -> eps, or with twice as many channels eps and the variance's v."""

    def __init__(self, *, num_heads_upsample=-1, **options):
        super().__init__(**options)
        mults = options.get("channel_mult", (1, 2, 4, 8))
        heads = options.get("num_heads", 1) if num_heads_upsample == -1 else num_heads_upsample
        channels, factor, widths = self._channels, self._factor, list(self._widths)
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(mults))):
            for i in range(options["num_res_blocks"] + 1):
                out = int(mult * self.model_channels)
                layers = [self._res(channels + widths.pop(), out)]
                channels = out
                if factor in options["attention_resolutions"]:
                    layers.append(self._attention(channels, heads))
                if level > 0 and i == options["num_res_blocks"]:
                    conv = options.get("conv_resample", True)
                    up = options.get("resblock_updown", False)
                    layers.append(self._res(channels, channels, "up") if up else Upsample(channels, conv))
                    factor //= 2
                self.output_blocks.append(TimestepSequential(*layers))
        self.out = nn.Sequential(
            normalization(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, self.out_channels, 3, padding=1))
        )

    def forward(self, x, timesteps, labels=None):
        embedding = self.embed(timesteps, labels)
        skips = []
        for block in self.input_blocks:
            x = block(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)


class SuperRes(UNet):
    """SuperResModel: sees a smaller picture too, enlarged and stacked upon x_t."""

    def __init__(self, *, in_channels, **options):
        super().__init__(in_channels=2 * in_channels, **options)

    def forward(self, x, timesteps, labels=None, low_res=None):
        large = F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False)
        return super().forward(torch.cat([x, large], dim=1), timesteps, labels)


HIDDEN = 2048


class Classifier(Encoder):
    """EncoderUNetModel: x_t, t -> logits. `pool` says how the pixels become one vector."""

    def __init__(self, *, pool="adaptive", num_heads_upsample=-1, **options):
        super().__init__(**options)
        channels, out = self._channels, options["out_channels"]
        self.pool = pool
        spatial = sum(self._widths) + channels
        if pool == "adaptive":
            self.out = nn.Sequential(normalization(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
                                     zeroed(nn.Conv2d(channels, out, 1)), nn.Flatten())
        elif pool == "attention":
            size = options["image_size"] // self._factor
            self.out = nn.Sequential(normalization(channels), nn.SiLU(),
                                     AttentionPool(size, channels, options["num_head_channels"], out))
        elif pool == "spatial":
            self.out = nn.Sequential(nn.Linear(spatial, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out))
        elif pool == "spatial_v2":
            self.out = nn.Sequential(nn.Linear(spatial, HIDDEN), normalization(HIDDEN), nn.SiLU(),
                                     nn.Linear(HIDDEN, out))
        else:
            raise ValueError(f"pool should be adaptive, attention, spatial or spatial_v2, found {pool!r}")

    def encode(self, x, timesteps):
        """What the pool is given: the middle's result, or the means of every block's."""
        embedding = self.embed(timesteps, None)
        means = []
        for block in [*self.input_blocks, self.middle_block]:
            x = block(x, embedding)
            means.append(x.mean((2, 3)))
        return torch.cat(means, dim=1) if self.pool.startswith("spatial") else x

    def features(self, x, timesteps):
        """The vector before the last linear layer, [N, F]."""
        h = self.encode(x, timesteps)
        if self.pool == "attention":
            return self.out[2].pooled(self.out[:2](h))
        last = 3 if self.pool in ("adaptive", "spatial_v2") else 2
        return self.out[:last](h).flatten(1)

    def forward(self, x, timesteps):
        return self.out(self.encode(x, timesteps))


KINDS = {"unet": UNet, "super_resolution": SuperRes, "classifier": Classifier}
