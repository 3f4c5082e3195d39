"""Writes expected.json: outputs of U-Nets in the layout of diffusers' UNet2DModel, for the test of the mapping.

The modules follow the documented structure of that class (ResnetBlock2D, Attention, Downsample2D, Upsample2D) and have its
parameter names, so that `state_dict()` lists what its files hold. Weights are a formula of the tensor's name and shape,
which the test repeats, so that none are stored. Everything is float64. Needs PyTorch: python3 make.py
"""
import json
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


class Resnet(nn.Module):
    def __init__(self, config, cin, cout, resample=None):
        super().__init__()
        groups, eps = config["norm_num_groups"], config["norm_eps"]
        temb = 4 * config["block_out_channels"][0]
        self.scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, cin, eps)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(temb, cout * (2 if self.scale_shift else 1))
        self.norm2 = nn.GroupNorm(groups, cout, eps)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout:
            self.conv_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x, temb):
        h = F.silu(self.norm1(x))
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif self.resample == "up":
            x, h = (F.interpolate(t, scale_factor=2.0, mode="nearest") for t in (x, h))
        h = self.conv1(h)
        temb = self.time_emb_proj(F.silu(temb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = temb.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + temb)
        h = self.conv2(F.silu(h))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Attention(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.heads = channels // (config["attention_head_dim"] or channels)
        self.group_norm = nn.GroupNorm(config["norm_num_groups"], channels, config["norm_eps"])
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        n, c, height, width = x.shape
        h = self.group_norm(x.reshape(n, c, -1)).transpose(1, 2)
        q, k, v = (p(h).reshape(n, -1, self.heads, c // self.heads).transpose(1, 2) for p in (self.to_q, self.to_k, self.to_v))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(c // self.heads), dim=-1)
        h = (weights @ v).transpose(1, 2).reshape(n, -1, c)
        return self.to_out[0](h).transpose(1, 2).reshape(x.shape) + x


class Downsample(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.padding = config["downsample_padding"]
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=self.padding)

    def forward(self, x, temb):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, temb):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    def __init__(self, resnets, attentions, down=None, up=None):
        super().__init__()
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        if down:
            self.downsamplers = nn.ModuleList([down])
        if up:
            self.upsamplers = nn.ModuleList([up])

    def layer(self, j, x, temb):
        x = self.resnets[j](x, temb)
        return self.attentions[j](x) if hasattr(self, "attentions") else x


class UNet2D(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        widths, depth = config["block_out_channels"], config["layers_per_block"]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = nn.Module()
        self.time_embedding.linear_1 = nn.Linear(widths[0], 4 * widths[0])
        self.time_embedding.linear_2 = nn.Linear(4 * widths[0], 4 * widths[0])
        if config["num_class_embeds"]:
            self.class_embedding = nn.Embedding(config["num_class_embeds"], 4 * widths[0])
        self.down_blocks = nn.ModuleList()
        skips, channels = [widths[0]], widths[0]
        for i, kind in enumerate(config["down_block_types"]):
            resnets, attentions = [], []
            for _ in range(depth):
                resnets.append(Resnet(config, channels, widths[i]))
                channels = widths[i]
                skips.append(channels)
                if kind.startswith("Attn"):
                    attentions.append(Attention(config, channels))
            down = None
            if i < last:
                resnet = config["downsample_type"] == "resnet"
                down = Resnet(config, channels, channels, "down") if resnet else Downsample(config, channels)
                skips.append(channels)
            self.down_blocks.append(Block(resnets, attentions, down=down))
        self.mid_block = Block([Resnet(config, channels, channels) for _ in range(2)], [Attention(config, channels)])
        self.up_blocks = nn.ModuleList()
        for i, kind in enumerate(config["up_block_types"]):
            width = widths[last - i]
            resnets, attentions = [], []
            for _ in range(depth + 1):
                resnets.append(Resnet(config, channels + skips.pop(), width))
                channels = width
                if kind.startswith("Attn"):
                    attentions.append(Attention(config, channels))
            up = None
            if i < last:
                resnet = config["upsample_type"] == "resnet"
                up = Resnet(config, channels, channels, "up") if resnet else Upsample(channels)
            self.up_blocks.append(Block(resnets, attentions, up=up))
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], channels, config["norm_eps"])
        self.conv_out = nn.Conv2d(channels, config["out_channels"], 3, padding=1)

    def timesteps(self, t):
        half = self.config["block_out_channels"][0] // 2
        exponent = -math.log(10000) * torch.arange(half) / (half - self.config["freq_shift"])
        angles = t[:, None] * torch.exp(exponent)[None]
        parts = [torch.sin(angles), torch.cos(angles)]
        return torch.cat(parts[::-1] if self.config["flip_sin_to_cos"] else parts, dim=1)

    def forward(self, x, t, labels=None):
        temb = self.time_embedding.linear_2(F.silu(self.time_embedding.linear_1(self.timesteps(t))))
        if labels is not None:
            temb = temb + self.class_embedding(labels)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for j in range(len(block.resnets)):
                x = block.layer(j, x, temb)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x, temb)
                skips.append(x)
        x = self.mid_block.resnets[0](x, temb)
        x = self.mid_block.attentions[0](x)
        x = self.mid_block.resnets[1](x, temb)
        for block in self.up_blocks:
            for j in range(len(block.resnets)):
                x = block.layer(j, torch.cat([x, skips.pop()], dim=1), temb)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, temb)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def formula(seed, shape):
    """0.1 * sin(1.7 * i + seed), for vectors that scale a norm 1 more. The test has the same."""
    count = math.prod(shape)
    return torch.sin(1.7 * torch.arange(count) + seed).reshape(shape)


def fill(model):
    names = []
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        norm = "norm" in name and name.endswith("weight")
        spread = 0.1 if tensor.dim() < 2 else 1.5 / math.sqrt(math.prod(tensor.shape[1:]))
        tensor.copy_((1.0 if norm else 0.0) + spread * formula(index, tuple(tensor.shape)))
        names.append([name, list(tensor.shape)])
    return names


BASE = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "center_input_sample": False,
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_scale_factor": 1,
    "norm_num_groups": 32,
    "time_embedding_type": "positional",
    "sample_size": 8,
    "layers_per_block": 1,
    "num_class_embeds": None,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "resnet_time_scale_shift": "default",
}

CASES = {
    "plain": {
        "attention_head_dim": None,
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-06,
    },
    "with_classes": {
        "attention_head_dim": 8,
        "block_out_channels": [32, 32],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_eps": 1e-05,
        "num_class_embeds": 5,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "layers_per_block": 2,
    },
}


def main():
    result = {}
    for name, more in CASES.items():
        config = {**BASE, **more}
        model = UNet2D(config)
        with torch.no_grad():
            tensors = fill(model)
            x = 2 * formula(0.5, (2, 3, 8, 8))
            t = torch.tensor([3.0, 987.0])
            labels = torch.tensor([4, 0]) if config["num_class_embeds"] else None
            out = model(x, t, labels)
        result[name] = {
            "config": config,
            "tensors": tensors,
            "t": t.tolist(),
            "labels": labels.tolist() if labels is not None else None,
            "out": [float(f"{v:.9g}") for v in out.flatten().tolist()],
        }
        print(name, sum(math.prod(s) for _, s in tensors), out.abs().max().item(), out.std().item())
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "expected.json"), "w") as file:
        json.dump(result, file)
        file.write("\n")


main()
