"""Trains a diffusion model or a classifier; README.md has the commands.

    python3 train.py diffusion  --data DIR --set emoji32 --run runs/emoji32-unet --minutes 18
    python3 train.py classifier --data DIR --set emoji32 --run runs/emoji32-classifier --minutes 4

The run's folder gets `state.pt` (everything needed to go on), rewritten every --save-minutes and at the end, and
`log.jsonl`. The same command again goes on where it stopped; with a larger budget it trains further. The learning rate
warms up, then falls along a cosine over the budget, whichever of --minutes and --images is nearer to being used up.
A new run can start from the weights of an exported file (--init); the optimiser, which no such file holds, starts anew.
"""
import argparse
import contextlib
import inspect
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import adm
import safetensors
from data import LOADERS, Batches, load
from diffusion import Diffusion

QUARTERS = 4
STEPS = 1000


def numbers(text):
    return [float(part) if "." in part else int(part) for part in text.split(",") if part]


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["diffusion", "classifier"])
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--set", required=True, choices=sorted(LOADERS))
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of this run; an existing run is resumed")
    parser.add_argument("--init", metavar="FILE", help="exported weights that a new run starts from")
    budget = parser.add_argument_group("budget (at least one)")
    budget.add_argument("--minutes", type=float, help="of training, over all resumptions")
    budget.add_argument("--images", type=float, help="pictures to see, over all resumptions")
    model = parser.add_argument_group("model")
    model.add_argument("--channels", type=int, default=64, help="base width (64)")
    model.add_argument("--mult", type=numbers, help="width of each level (1,2,2,2; at 28 pixels 1,2,2)")
    model.add_argument("--blocks", type=int, default=2, help="residual blocks a level (2)")
    model.add_argument("--attention", type=numbers, help="sizes in pixels with attention (those from 7 to 16)")
    model.add_argument("--head-channels", type=int, default=64)
    model.add_argument("--dropout", type=float, default=0.0)
    model.add_argument("--pool", default="attention", choices=["attention", "adaptive", "spatial", "spatial_v2"])
    model.add_argument("--schedule", default="linear", choices=["linear", "cosine"])
    learning = parser.add_argument_group("learning")
    learning.add_argument("--batch", type=int, default=128)
    learning.add_argument("--lr", type=float, help="peak learning rate (5e-4)")
    learning.add_argument("--warmup", type=int, default=200, help="steps, at most a twentieth of the budget (200)")
    learning.add_argument("--weight-decay", type=float, help="0 for diffusion, 0.05 for a classifier")
    learning.add_argument("--ema", type=float, default=0.9995, help="decay of the averaged weights (0.9995)")
    learning.add_argument("--drop", type=float, default=0.2, help="share of labels replaced by the null class (0.2)")
    learning.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient (1)")
    learning.add_argument("--shift", type=int, help="random shift in pixels: 0 for diffusion, 2 for a classifier")
    learning.add_argument("--no-mirror", action="store_true", help="never mirror; else classes where it is right are")
    learning.add_argument("--clean", action="store_true", help="classifier of clean pictures: t = 0, no noise")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cuda if there is one, else cpu")
    machine.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"],
                         help="auto: bf16 or fp16 on a GPU, fp32 on a CPU")
    machine.add_argument("--threads", type=int, help="of the CPU")
    machine.add_argument("--compile", action="store_true", help="torch.compile, with PyTorch 2")
    machine.add_argument("--seed", type=int, default=0)
    machine.add_argument("--save-minutes", type=float, default=5)
    machine.add_argument("--log-every", type=int, default=100, help="steps (100)")
    args = parser.parse_args(argv)
    classifier = args.kind == "classifier"
    if args.minutes is None and args.images is None:
        parser.error("give a budget: --minutes, --images or both")
    if args.clean and not classifier:
        parser.error("--clean is for a classifier")
    args.weight_decay = (0.05 if classifier else 0.0) if args.weight_decay is None else args.weight_decay
    args.lr = 5e-4 if args.lr is None else args.lr
    args.shift = (2 if classifier else 0) if args.shift is None else args.shift
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return args


def configuration(args, data):
    """What an exported file says of itself: guided-diffusion's keyword arguments."""
    size, channels = data.images.shape[-1], data.images.shape[1]
    if args.mult is None:
        args.mult = [1, 2, 2, 2] if size % 8 == 0 else [1, 2, 2]
    sizes = [math.ceil(size / 2 ** level) for level in range(len(args.mult))]
    if args.attention is None:
        args.attention = [s for s in sizes if 7 <= s <= 16]
    missing = [s for s in args.attention if s not in sizes]
    if size % 2 ** (len(args.mult) - 1) or missing:
        raise SystemExit(f"{args.set} is {size} pixels wide; with {len(args.mult)} levels its maps have {sizes}: "
                         f"choose --attention from these" if missing else
                         f"{args.set} is {size} pixels wide, which {len(args.mult)} levels do not halve evenly")
    model = {
        "image_size": size, "in_channels": channels, "model_channels": args.channels,
        "num_res_blocks": args.blocks, "attention_resolutions": [2 ** sizes.index(s) for s in args.attention],
        "dropout": args.dropout, "channel_mult": args.mult, "num_head_channels": args.head_channels,
        "use_scale_shift_norm": True, "resblock_updown": True,
    }
    process = {"steps": STEPS, "noise_schedule": args.schedule, "learn_sigma": True, "predict_xstart": False,
               "rescale_timesteps": False}
    config = {"kind": "unet" if args.kind == "diffusion" else "classifier", "model": model, "diffusion": process,
              "classes": data.classes}
    if args.kind == "diffusion":
        model.update(out_channels=2 * channels, num_classes=len(data.classes) + 1)
        config["null_class"] = len(data.classes)
    else:
        model.update(out_channels=len(data.classes), pool=args.pool)
        if args.clean:
            del config["diffusion"]
    return config


def exported_weights(path, config):
    """-> ({name: tensor} in float32, {"file": name, "images_seen": count}), of an exported file.

    What a run of `config` would train must be what the file holds; only dropout, which changes no weight, may differ.
    """
    tensors, metadata = safetensors.read(path)
    theirs = json.loads(metadata["config"])
    signature = inspect.signature(adm.Encoder.__init__).parameters.values()
    unsaid = {p.name: p.default for p in signature if p.default is not p.empty}

    def description(c):
        whole = {name: c.get(name) for name in ("kind", "classes", "null_class", "diffusion")}
        return {**whole, **{name: value for name, value in {**unsaid, **c["model"]}.items() if name != "dropout"}}

    ours, held = description(config), description(theirs)
    for name in sorted(ours.keys() | held.keys()):
        if ours.get(name) != held.get(name):
            raise SystemExit(f"--init {path} has {name} {json.dumps(held.get(name))}, this run "
                             f"{json.dumps(ours.get(name))}; choose the options it was made with")
    weights = {name: torch.from_numpy(values.astype(np.float32)) for name, values in tensors.items()}
    return weights, {"file": os.path.basename(path), "images_seen": theirs.get("images_seen", 0)}


class Precision:
    """Autocast and, for float16, loss scaling; the same calls for PyTorch 1.13 and 2.x."""

    def __init__(self, device, wanted):
        gpu = device.startswith("cuda")
        if wanted == "auto":
            wanted = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "fp32"
        self.name = wanted
        self.device = "cuda" if gpu else "cpu"
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
        if wanted == "fp16" and not gpu:
            raise SystemExit("float16 needs a GPU; choose --precision bf16 or fp32")
        if gpu:
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        scaled = wanted == "fp16"
        self.scaler = (torch.amp.GradScaler("cuda", enabled=scaled) if hasattr(torch.amp, "GradScaler")
                       else torch.cuda.amp.GradScaler(enabled=scaled)) if gpu else None

    def autocast(self):
        return torch.autocast(self.device, self.dtype) if self.dtype else contextlib.nullcontext()

    def step(self, loss, optimizer, parameters, clip):
        """-> the gradient's norm before clipping"""
        optimizer.zero_grad(set_to_none=True)
        if self.scaler is None:
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            return norm
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm


class Average:
    """Exponential moving average of the weights.

    It starts short, so that the first noise is soon forgotten; from weights that are `settled`, averages themselves,
    it has its full length at once.
    """

    def __init__(self, model, decay, settled=False):
        self.decay = decay
        self.settled = settled
        self.values = {name: p.detach().clone().float() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model, step):
        keep = self.decay if self.settled else min(self.decay, (1 + step) / (10 + step))
        ours = list(self.values.values())
        torch._foreach_mul_(ours, keep)
        torch._foreach_add_(ours, [p.detach().float() for p in model.parameters()], alpha=1 - keep)


class Meter:
    """Means since the last report, also by quarter of the timesteps."""

    def __init__(self):
        self.sums = {}

    def add(self, name, values, t=None):
        """values [N]; with t [N] by quarter too"""
        values = values.detach().float()
        self._add(name, values.sum(), len(values))
        if t is None:
            return
        quarter = (t * QUARTERS // STEPS).clamp(max=QUARTERS - 1)
        sums = torch.zeros(QUARTERS, device=values.device).index_add_(0, quarter, values)
        counts = torch.bincount(quarter, minlength=QUARTERS).float()
        for q in range(QUARTERS):
            self._add(f"{name}_q{q}", sums[q], counts[q])

    def _add(self, name, total, count):
        before = self.sums.get(name, (0, 0))
        self.sums[name] = (before[0] + total, before[1] + count)

    def take(self):
        """Only here are values fetched from the device."""
        means = {name: float(total) / max(float(count), 1) for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def diffusion_loss(args, model, process, x, y, t, noise, drop, meter):
    """Hybrid loss with learned range; labels become the null class where `drop` says so."""
    labels = torch.where(drop, torch.full_like(y, model_classes(model) - 1), y)
    terms = process.losses(model, x, t, noise, labels)
    for name in ("mse", "vb"):
        meter.add(name, terms[name], t)
    return terms["loss"].mean()


def model_classes(model):
    return getattr(model, "_orig_mod", model).num_classes


def classifier_loss(args, model, process, x, y, t, noise, _drop, meter):
    if args.clean:
        t = torch.zeros_like(t)
    else:
        x = process.noised(x, t, noise)
    logits = model(x, t).float()
    loss = F.cross_entropy(logits, y, reduction="none")
    quarters = None if args.clean else t
    meter.add("loss", loss, quarters)
    meter.add("accuracy", (logits.argmax(1) == y).float(), quarters)
    return loss.mean()


def save(path, state):
    """Never leaves half a file."""
    torch.save(state, path + ".partial")
    os.replace(path + ".partial", path)


def main(argv=None):
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.run, exist_ok=True)
    path = os.path.join(args.run, "state.pt")
    device = args.device
    data = load(args.set, args.data, "train").to(device)
    config = configuration(args, data)
    torch.manual_seed(args.seed)
    # Tensor cores want the channels last; on a CPU that order is half as fast (measured with PyTorch 1.13).
    layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
    model = adm.KINDS[config["kind"]](**config["model"]).to(device, memory_format=layout)
    model.train()
    precision = Precision(device, args.precision)
    fused = {"fused": True} if device.startswith("cuda") and "fused" in inspect.signature(
        torch.optim.AdamW.__init__).parameters else {}
    origin = None
    if args.init:
        weights, origin = exported_weights(args.init, config)
        model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay, **fused)
    average = Average(model, args.ema, settled=origin is not None)
    generator = torch.Generator().manual_seed(args.seed)
    step, elapsed, history = 0, 0.0, []
    if os.path.exists(path):
        state = torch.load(path, map_location=device)
        if state["config"] != config:
            raise SystemExit(f"{path} is a run of another model: {json.dumps(state['config'])}; choose another --run")
        if state.get("origin") != origin:
            raise SystemExit(f"{path} is a run that began with {began(state.get('origin'))}, not with {began(origin)}; "
                             "choose another --run or the same --init")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = state["ema"]
        generator.set_state(state["generator"].cpu())
        if precision.scaler is not None and state["scaler"]:
            precision.scaler.load_state_dict(state["scaler"])
        step, elapsed, history = state["step"], state["seconds"], state["history"]
        print(f"resumed after {step} steps, {elapsed / 60:.1f} minutes", flush=True)

    parameters = list(model.parameters())
    runner = torch.compile(model) if args.compile else model
    process = Diffusion(STEPS, args.schedule)
    loss_of = diffusion_loss if args.kind == "diffusion" else classifier_loss
    batches = Batches(data, args.batch, generator, not args.no_mirror, args.shift)
    count = sum(p.numel() for p in parameters)
    print(f"{args.kind} on {args.set}: {len(data.labels)} pictures, {count / 1e6:.2f} M parameters, {device}, "
          f"{precision.name}, PyTorch {torch.__version__}", flush=True)

    def progress(seconds):
        shares = [seconds / 60 / args.minutes] if args.minutes else []
        shares += [step * args.batch / args.images] if args.images else []
        return max(shares)

    def store():
        save(path, {"config": config, "arguments": vars(args), "origin": origin, "credit": data.credit,
                    "model": model.state_dict(), "ema": average.values,
                    "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
                    "scaler": precision.scaler.state_dict() if precision.scaler is not None else {}, "step": step,
                    "seconds": elapsed, "history": history, "images_seen": step * args.batch,
                    "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
                    "precision": precision.name})

    meter, started, saved = Meter(), time.monotonic() - elapsed, time.monotonic()
    reported = (step, elapsed)
    while progress(elapsed) < 1:
        share = progress(elapsed)
        warm = min(1, max((step + 1) / args.warmup, share / 0.05))
        rate = args.lr * warm * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = batches.next()
        x = x.contiguous(memory_format=layout)
        # All chance comes from one generator on the CPU, so that a resumed run goes on as if never stopped.
        t = torch.randint(STEPS, (args.batch,), generator=generator).to(device)
        drop = (torch.rand(args.batch, generator=generator) < args.drop).to(device)
        noise = normal(x, generator)
        with precision.autocast():
            loss = loss_of(args, runner, process, x, y, t, noise, drop, meter)
        norm = precision.step(loss, optimizer, parameters, args.clip)
        average.update(model, step)
        meter.add("gradient", norm.detach().reshape(1))
        step += 1
        elapsed = time.monotonic() - started
        last = progress(elapsed) >= 1
        if step % args.log_every == 0 or last:
            seconds = elapsed - reported[1]
            entry = {"step": step, "minutes": round(elapsed / 60, 3), "lr": rate,
                     "images_per_second": round((step - reported[0]) * args.batch / seconds, 1), **meter.take()}
            if not math.isfinite(entry["gradient"]) and precision.name != "fp16":
                raise SystemExit(f"the loss is not finite after {step} steps; lower --lr")
            reported = (step, elapsed)
            history.append(entry)
            with open(os.path.join(args.run, "log.jsonl"), "a") as file:
                file.write(json.dumps(entry) + "\n")
            print(line(entry), flush=True)
        if last or time.monotonic() - saved > 60 * args.save_minutes:
            store()
            saved = time.monotonic()
    print(f"{step} steps, {step * args.batch} pictures, {elapsed / 60:.1f} minutes: {path}")


def began(origin):
    return f"the weights of {origin['file']}" if origin else "random weights"


def normal(like, generator):
    """Standard normal noise. On a GPU it is drawn there, from a seed that the one generator gives."""
    if like.device.type == "cpu":
        return torch.randn(like.shape, generator=generator)
    seed = int(torch.randint(2 ** 62, (1,), generator=generator))
    own = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=own, device=like.device)


def line(entry):
    shown = {k: v for k, v in entry.items() if k not in ("step", "minutes", "lr")}
    return f"step {entry['step']:6} {entry['minutes']:7.1f} min  " + "  ".join(
        f"{name} {value:.4g}" for name, value in shown.items())


if __name__ == "__main__":
    main()
