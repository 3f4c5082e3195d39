"""Writes a run's averaged weights as a self-describing float16 safetensors file, measures it, and writes its card.

    python3 export.py --run runs/emoji32-unet --data DIR --out emoji32-unet.safetensors --card emoji32-unet.md

Matrices are stored as float16, vectors as float32. What is measured is the stored file, on the test split.
"""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F

import adm
import safetensors
from data import load
from diffusion import Diffusion
from train import STEPS

LEVELS = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]


def load_model(path, device="cpu"):
    """-> model ready for use, its configuration"""
    tensors, metadata = safetensors.read(path)
    config = json.loads(metadata["config"])
    model = adm.KINDS[config["kind"]](**config["model"]).eval().requires_grad_(False)
    model.load_state_dict({name: torch.from_numpy(values.astype(np.float32)) for name, values in tensors.items()})
    return model.to(device), config


def evenly_by_class(data, count):
    """The first pictures of each class, classes in turn, as many of each: at most `count`, less if a class has less."""
    per_class = min(count // len(data.classes), int(torch.bincount(data.labels).min()))
    rows = torch.stack([torch.nonzero(data.labels == k)[:per_class, 0] for k in range(len(data.classes))], dim=1)
    return data.images[rows.flatten()].float() / 127.5 - 1, data.labels[rows.flatten()]


@torch.no_grad()
def batched(function, *inputs, size=100):
    return torch.cat([function(*(i[at:at + size] for i in inputs)) for at in range(0, len(inputs[0]), size)])


def noise_errors(model, config, x, y):
    """Mean squared error of the predicted noise by timestep, with the class and with the null class."""
    process = Diffusion(STEPS, config["diffusion"]["noise_schedule"])
    null = torch.full_like(y, config["null_class"])
    result = {"with the class": [], "with the null class": []}
    for level in LEVELS:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(level)).to(x.device)
        t = torch.full_like(y, level)
        noised = process.noised(x, t, noise)
        for name, labels in zip(result, (y, null)):
            errors = batched(lambda a, b, l, n: ((model(a, b, l)[:, :x.shape[1]] - n) ** 2).flatten(1).mean(1),
                             noised, t, labels, noise)
            result[name].append(float(errors.mean()))
    return result


def accuracies(model, config, x, y):
    """Share of pictures named rightly by timestep; of clean ones alone if the classifier knows no noise."""
    if "diffusion" not in config:
        right = batched(lambda a, b: model(a, torch.zeros(len(a), device=a.device)).argmax(1) == b, x, y)
        return {"right": [float(right.float().mean())]}
    process = Diffusion(STEPS, config["diffusion"]["noise_schedule"])
    shares = []
    for level in LEVELS:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(level)).to(x.device)
        t = torch.full_like(y, level)
        right = batched(lambda a, b, c: model(a, b).argmax(1) == c, process.noised(x, t, noise), t, y)
        shares.append(float(right.float().mean()))
    return {"right": shares}


def table(figures, percent):
    levels = LEVELS[:max(len(v) for v in figures.values())]
    def show(value):
        return f"{100 * value:.1f} %" if percent else f"{value:.3g}"
    rows = [["t", *map(str, levels)], ["---"] * (len(levels) + 1),
            *[[name, *map(show, values)] for name, values in figures.items()]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def card(name, config, state, size, count, figures):
    m, args, classifier = config["model"], state["arguments"], config["kind"] == "classifier"
    clean = classifier and "diffusion" not in config
    colours = {1: "grey", 3: "colour"}[m["in_channels"]]
    parameters = sum(v.numel() for v in state["ema"].values())
    sizes = [m["image_size"] // r for r in m["attention_resolutions"]]
    what = ("A classifier of clean pictures" if clean else
            "A noisy classifier: it names the class at any noise level, and its gradient steers a sampler" if classifier
            else "An ADM U-Net that turns noise into pictures")
    measured = (f"Share of {count} test pictures named rightly" if classifier else
                f"Mean squared error of the predicted noise on {count} test pictures, by timestep")
    origin = state.get("origin")
    start = (f" Began with the weights of `{origin['file']}`, which had seen {origin['images_seen']:,} pictures before."
             if origin else "")
    result = (f"{measured}, with the stored weights: {100 * figures['right'][0]:.1f} %." if clean else
              f"{measured}, measured with the stored weights:\n\n{table(figures, classifier)}")
    extra = "" if classifier else (
        f" The label was replaced by the null class for {100 * args['drop']:.0f} % of the pictures; hybrid loss "
        "(mean squared error plus the variational bound for the variance).")
    return f"""# {name}

{what}, {m["image_size"]} × {m["image_size"]}, {colours}.

| | |
| --- | --- |
| file | `{name}.safetensors`, {size / 1e6:.1f} MB; matrices float16, vectors float32 |
| parameters | {parameters:,} |
| architecture | base width {m["model_channels"]}, multipliers {", ".join(map(str, m["channel_mult"]))}, \
{m["num_res_blocks"]} residual block(s) a level, attention at {", ".join(map(str, sizes))} pixels (heads of \
{m["num_head_channels"]} channels), scale-shift norm, resampling inside residual blocks\
{", " + m["pool"] + " pool" if classifier else ""} |
| classes | {", ".join(config["classes"])}{"" if classifier else f'; null class {config["null_class"]}'} |
| names of tensors | those of openai/guided-diffusion |

## Training

{state["credit"]}. {state["images_seen"]:,} pictures seen in {state["seconds"] / 60:.1f} minutes on {state["device"]} \
({state["precision"]}), every class equally often; batch {args["batch"]}, AdamW {args["lr"]:g} with warm-up and cosine \
decay, weight decay {args["weight_decay"]:g}, average of the weights {args["ema"]:g}.{start}{extra}

## How good it is

{result}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors")
    parser.add_argument("--card", metavar="FILE.md")
    parser.add_argument("--count", type=int, default=1000, help="test pictures to measure with (1000)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    state = torch.load(os.path.join(args.run, "state.pt"), map_location="cpu")
    before = (state.get("origin") or {"images_seen": 0})["images_seen"]
    config = dict(state["config"], images_seen=before + state["images_seen"])
    tensors = {name: values.numpy().astype(np.float16 if values.dim() > 1 else np.float32)
               for name, values in state["ema"].items()}
    too_large = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if too_large:
        raise SystemExit(f"{too_large[0]} has values that float16 cannot hold")
    safetensors.write(args.out, tensors, {"config": json.dumps(config)})

    model, _ = load_model(args.out, args.device)
    x, y = (v.to(args.device) for v in evenly_by_class(load(state["arguments"]["set"], args.data, "test"), args.count))
    figures = (accuracies if config["kind"] == "classifier" else noise_errors)(model, config, x, y)
    metadata = {"config": json.dumps(config), "figures": json.dumps({"test_pictures": len(y), "t": LEVELS, **figures})}
    safetensors.write(args.out, tensors, metadata)
    print(table(figures, config["kind"] == "classifier"))
    if args.card:
        name = os.path.splitext(os.path.basename(args.out))[0]
        with open(args.card, "w", encoding="utf-8") as file:
            file.write(card(name, config, state, os.path.getsize(args.out), len(y), figures))


if __name__ == "__main__":
    main()
