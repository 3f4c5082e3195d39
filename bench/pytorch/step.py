"""One guided DDIM step (Dhariwal & Nichol 2021, algorithm 2) in PyTorch, and the ways in which PyTorch can run it."""
import copy
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

import adm
from diffusion import Diffusion
from models import SCHEDULE, STEPS

# float16 loses what is below 6e-8, as parts of a classifier's gradient are: its seed is so much larger, its result so
# much smaller.
SEED = {torch.float16: 1024.0}


@dataclass
class Inputs:
    """What a step is given: x_t [N, C, H, W], labels [N], the timesteps as the models are told them [N]."""
    x: torch.Tensor
    labels: torch.Tensor
    timesteps: torch.Tensor

    def first(self, count):
        return Inputs(self.x[:count], self.labels[:count], self.timesteps[:count])


class Coefficients:
    """The numbers of one step from t to t - 1 of a respaced process, in float64."""

    def __init__(self, respacing, t, scale):
        process = Diffusion(STEPS, SCHEDULE, spacing=respacing)
        self.timestep = int(process.timestep_map[t])
        self.scale = scale
        self.recip, self.recipm1 = float(process.sqrt_recip_abar[t]), float(process.sqrt_recipm1_abar[t])
        self.sigma = float(process.sqrt_one_minus_abar[t])
        self.to_start = float(process.sqrt_abar_previous[t])
        self.to_noise = float(process.sqrt_one_minus_abar_previous[t])


def predict(unet, inputs, dtype):
    """The U-Net's output [N, 2 C, H, W]: the noise, and the variance's v, which DDIM does not use."""
    return unet(inputs.x.to(dtype), inputs.timesteps, inputs.labels)


def gradient(classifier, inputs, dtype):
    """Of the sum of log p(y | x_t) with respect to x_t, [N, C, H, W]."""
    seed = SEED.get(dtype, 1.0)
    with torch.enable_grad():
        x = inputs.x.to(dtype).detach().requires_grad_(True)
        logits = classifier(x, inputs.timesteps)
        wide = torch.promote_types(logits.dtype, torch.float32)
        selected = F.log_softmax(logits.to(wide), dim=1).gather(1, inputs.labels[:, None])
        result = torch.autograd.grad(selected.sum() * seed, x)[0]
    return result.to(inputs.x.dtype) / seed


@torch.no_grad()
def guided_step(unet, classifier, inputs, c, dtype):
    """-> output, gradient, x_{t-1}; the arithmetic around the models is in the dtype of x_t."""
    x = inputs.x
    output = predict(unet, inputs, dtype).to(x.dtype)
    slope = gradient(classifier, inputs, dtype)
    start = (c.recip * x - c.recipm1 * output[:, :x.shape[1]]).clamp(-1, 1)
    noise = (c.recip * x - start) / c.recipm1 - c.sigma * c.scale * slope
    start = c.recip * x - c.recipm1 * noise
    return output, slope, c.to_start * start + c.to_noise * noise


plain_attention = adm.attend


def fused_attention(qkv, heads, new_order):
    """`adm.attend` by PyTorch's own fused kernel, which wants [N, heads, T, c]."""
    n, width, length = qkv.shape
    c = width // (3 * heads)
    if new_order:
        parts = qkv.reshape(n, 3, heads, c, length).unbind(1)
    else:
        parts = qkv.reshape(n, heads, 3, c, length).unbind(2)
    q, k, v = (part.transpose(-1, -2).contiguous() for part in parts)
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, heads * c, length)


def fix_timesteps(inputs):
    """Makes the table of sines once instead of in every step, as samplers may: all steps here have the same timesteps.

    The original copies its frequencies from the host each time, and the GPU waits for that.
    """
    made, make = {}, adm.timestep_embedding

    def lookup(timesteps, dim):
        if dim not in made:
            made[dim] = make(inputs.timesteps, dim)
        return made[dim][:len(timesteps)]

    adm.timestep_embedding = lookup


@dataclass(frozen=True)
class Way:
    """A configuration of PyTorch. Norms are computed in float32 in any case: `wide_norms` also stores what goes in and
    out of them so, as openai's code does."""
    dtype: torch.dtype
    channels_last: bool = False
    fused: bool = True
    wide_norms: bool = False

    @property
    def precision(self):
        return str(self.dtype).replace("torch.", "")

    @property
    def name(self):
        words = ["channels last" if self.channels_last else "channels first",
                 "fused attention" if self.fused else "plain attention"]
        return ", ".join(words + ["norms cast to float32"] * self.wide_norms)

    def prepare(self, model):
        """The model in this way: a copy, unless nothing changes."""
        if self.dtype == torch.float32 and not self.channels_last:
            return model
        made = copy.deepcopy(model).to(self.dtype)
        if self.channels_last:
            made = made.to(memory_format=torch.channels_last)
        for module in made.modules() if self.wide_norms else ():
            if isinstance(module, nn.GroupNorm):
                module.float()
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
                module.register_forward_hook(lambda _, inputs, result: result.to(self.dtype))
        return made

    def place(self, inputs):
        """The inputs in the layout of this way."""
        if not self.channels_last:
            return inputs
        return Inputs(inputs.x.contiguous(memory_format=torch.channels_last), inputs.labels, inputs.timesteps)

    def enter(self):
        adm.attend = fused_attention if self.fused else plain_attention


def ways(device):
    """In the order in which they are tried: the likely best ones first, in case time runs out."""
    fused = hasattr(F, "scaled_dot_product_attention")
    if device == "cpu":
        single = [Way(torch.float32, fused=False), Way(torch.float32, channels_last=True, fused=False)]
        return single + ([Way(torch.float32)] if fused else [])
    half = torch.float16
    return [
        Way(torch.float32),
        Way(half, channels_last=True),
        Way(half),
        Way(half, channels_last=False, fused=False, wide_norms=True),
        Way(torch.float32, fused=False),
        Way(torch.float32, channels_last=True),
    ]
