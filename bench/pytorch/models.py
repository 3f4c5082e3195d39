"""The models that are timed: their configurations, and random weights that make a fair case of them.

Architecture and names are those of weights/training/adm.py, which this imports.
"""
import contextlib
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "weights", "training"))

import adm  # noqa: E402

STEPS, SCHEDULE = 1000, "cosine"

# What ADM-64's U-Net and classifier have in common; both have multipliers 1, 2, 3, 4 at 64 pixels.
ADM64 = dict(image_size=64, in_channels=3, attention_resolutions=[2, 4, 8], channel_mult=[1, 2, 3, 4], num_heads=1,
             num_head_channels=64, use_scale_shift_norm=True, resblock_updown=True)
# The same kinds of layers, for a CPU.
SMALL = dict(ADM64, image_size=16, attention_resolutions=[2], channel_mult=[1, 2], num_head_channels=32)

SIZES = {
    "ADM-64": {
        "unet": dict(ADM64, model_channels=192, num_res_blocks=3, out_channels=6, num_classes=1000, num_heads=4,
                     use_new_attention_order=True),
        "classifier": dict(ADM64, model_channels=128, num_res_blocks=4, out_channels=1000, pool="attention"),
    },
    "small": {
        "unet": dict(SMALL, model_channels=32, num_res_blocks=1, out_channels=6, num_classes=10,
                     use_new_attention_order=True),
        "classifier": dict(SMALL, model_channels=32, num_res_blocks=1, out_channels=10, pool="attention"),
    },
}


def config(size, kind):
    """What the file of a model says of itself, as Pilotwave reads it."""
    return {"kind": kind, "model": SIZES[size][kind], "diffusion": {
        "steps": STEPS, "noise_schedule": SCHEDULE, "learn_sigma": True}}


@torch.no_grad()
def randomize(model, generator):
    """Random values for every parameter: those that training starts at zero too, since a convolution of zeros proves
    nothing. A matrix has variance 1 / fan-in, so activations stay of order 1."""
    for name, parameter in model.named_parameters():
        parameter.normal_(generator=generator)
        if name.startswith("label_emb"):
            parameter.mul_(0.5)
        elif name.endswith("positional_embedding"):
            parameter.mul_(parameter.shape[0] ** -0.5)
        elif parameter.dim() > 1:
            parameter.mul_((parameter.shape[0] / parameter.numel()) ** 0.5)
        elif name.endswith("weight"):
            parameter.mul_(0.2).add_(1)
        else:
            parameter.mul_(0.1)


def build(size, kind, device, generator):
    """A model in float32 on the device; nothing in it asks for a gradient."""
    place = torch.device(device)
    # Where PyTorch can, parameters are made on the device: the default initialisation of 300 million is slow on a CPU.
    with place if hasattr(place, "__enter__") else contextlib.nullcontext():
        model = adm.KINDS[kind](**SIZES[size][kind])
    model = model.to(device).eval().requires_grad_(False)
    randomize(model, generator)
    return model
