"""One guided step of ADM-64 in PyTorch: files for Pilotwave with the results that it should have, and PyTorch's times.

    python3 guided_step.py --out DIR                  writes the files, checks, times; one JSON object on standard output
    python3 guided_step.py --again FIRST.json         times the fastest way of each precision once more
    python3 guided_step.py --out DIR --small          a small model, for a CPU

DIR gets unet.safetensors, classifier.safetensors (random weights under guided-diffusion's names, self-describing) and
expected.safetensors: x_t, timesteps, labels, and PyTorch's float32 output, gradient and sample (x_{t-1}).
"""
import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import torch

import models
import safetensors
from step import Coefficients, Inputs, Way, fix_timesteps, gradient, guided_step, predict, ways
from timing import measure

RESPACING, AT = "ddim25", 10
RESULTS = ("output", "gradient", "sample")
PARTS = ("unet", "classifier_gradient")

# Guidance should count: by default it is so strong that it moves the predicted noise by this, of order 1 itself.
MOVED = 0.3

# Relative errors above these are another computation, not rounding: such a way is not timed.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}


def log(text):
    print(f"{time.perf_counter() - BEGUN:6.1f} s  {text}", file=sys.stderr, flush=True)


def relative(found, expected):
    """Relative L2 errors of results by name."""
    return {name: float((f.double() - e.double()).norm() / e.double().norm())
            for name, f, e in zip(RESULTS, found, expected)}


def driver(device):
    """The version of the GPU's driver, or None."""
    if device != "cuda":
        return None
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=10)
        return found.stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def write_files(folder, size, pair, inputs, results, c):
    os.makedirs(folder, exist_ok=True)
    for kind, model in pair.items():
        tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
        metadata = {"config": json.dumps(models.config(size, kind))}
        safetensors.write(os.path.join(folder, f"{kind}.safetensors"), tensors, metadata)
    tensors = {"x_t": inputs.x, "timesteps": inputs.timesteps.float(), "labels": inputs.labels.int(),
               **dict(zip(RESULTS, results))}
    step = {"respacing": RESPACING, "t": AT, "scale": c.scale}
    safetensors.write(os.path.join(folder, "expected.safetensors"),
                      {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in tensors.items()},
                      {"step": json.dumps(step)})


class Bench:
    """Models, inputs and what was found of them."""

    def __init__(self, args):
        self.args, self.device = args, args.device
        self.size = "small" if args.small else "ADM-64"
        generator = torch.Generator(self.device).manual_seed(args.seed)
        self.pair = {kind: models.build(self.size, kind, self.device, generator) for kind in ("unet", "classifier")}
        shape = models.SIZES[self.size]["unet"]
        x = torch.randn(args.batch, 3, shape["image_size"], shape["image_size"], generator=generator,
                        device=self.device)
        labels = torch.arange(args.batch, device=self.device) * 7 % shape["num_classes"]
        self.c = Coefficients(RESPACING, AT, args.scale)
        timesteps = torch.full((args.batch,), self.c.timestep, device=self.device)
        self.inputs = Inputs(x, labels, timesteps)
        fix_timesteps(self.inputs)
        if args.scale is None:
            Way(torch.float32, fused=False).enter()
            slope = gradient(self.pair["classifier"], self.inputs, torch.float32)
            self.c.scale = float(f"{MOVED / self.c.sigma / float(slope.square().mean().sqrt()):.2g}")

    def results(self, way, pair=None, inputs=None):
        way.enter()
        pair = pair or {kind: way.prepare(model) for kind, model in self.pair.items()}
        return guided_step(pair["unet"], pair["classifier"], way.place(inputs or self.inputs), self.c, way.dtype)

    def double(self, count):
        """The results of the first images in float64: what all others are off from."""
        pair = {kind: Way(torch.float64).prepare(model) for kind, model in self.pair.items()}
        first = self.inputs.first(count)
        return self.results(Way(torch.float64, fused=False), pair,
                            Inputs(first.x.double(), first.labels, first.timesteps))

    def time_way(self, way, expected, works=("step",), graph=False):
        """How fast a way is, in the step or in its parts, and how far off."""
        way.enter()
        pair = {kind: way.prepare(model) for kind, model in self.pair.items()}
        inputs, c = way.place(self.inputs), self.c
        known = {
            "step": lambda: guided_step(pair["unet"], pair["classifier"], inputs, c, way.dtype),
            "unet": torch.no_grad()(lambda: predict(pair["unet"], inputs, way.dtype)),
            "classifier_gradient": lambda: gradient(pair["classifier"], inputs, way.dtype),
        }
        runs = {name: recorded(known[name]) if graph else known[name] for name in works}
        error = relative(runs.get("step", known["step"])(), expected)
        if not all(value <= TOLERANCE[way.precision] for value in error.values()):
            raise RuntimeError(f"relative errors {error} are above {TOLERANCE[way.precision]}")
        found = {"precision": way.precision, "way": way.name, "graph": graph, "error": error}
        for name, run in runs.items():
            found[name] = measure(run, self.device, self.args.seconds)
        text = ", ".join(f"{name} {found[name]['ms']:.2f} ms" for name in works)
        log(f"{way.precision}, {way.name}{', CUDA graph' if graph else ''}: {text}")
        return found


def recorded(work):
    """`work` as a CUDA graph: one launch for all of its kernels, so that the host cannot be what is waited for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()
    def replay():
        graph.replay()
        return kept
    return replay


def attempt(make, doing):
    """-> a list of what was found. A way that PyTorch cannot go, or goes wrong, says so, and the others go on."""
    try:
        return [make()]
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        log(f"{doing} failed: {text}")
        return [{"way": doing, "failed": text}]


def fastest(found):
    """The best of each precision by the median of its step."""
    best = {}
    for one in found:
        key = one.get("precision")
        if key and (key not in best or one["step"]["ms"] < best[key]["step"]["ms"]):
            best[key] = one
    return best


def time_ways(bench, expected, candidates):
    """All ways by themselves, then the fastest of each precision as a CUDA graph too; the parts in the better of both."""
    found = []
    for way in candidates:
        if time.perf_counter() - BEGUN > bench.args.limit:
            log(f"{way.precision}, {way.name}: left out, no time left")
            continue
        found += attempt(lambda: bench.time_way(way, expected), f"{way.precision}, {way.name}")
    named = {(way.precision, way.name): way for way in candidates}
    # Last, since a recording that fails might leave the device in disorder.
    if bench.device == "cuda":
        for best in fastest(found).values():
            way = named[best["precision"], best["way"]]
            found += attempt(lambda: bench.time_way(way, expected, graph=True), f"{way.precision}, {way.name}, graph")
    best = fastest(found)
    if not bench.args.again:
        for one in best.values():
            way = named[one["precision"], one["way"]]
            for parts in attempt(lambda: bench.time_way(way, expected, PARTS, one["graph"]), f"parts of {way.name}"):
                one.update({name: parts[name] for name in PARTS if name in parts})
    return found, best


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR", help="where files are written; none by default")
    parser.add_argument("--again", metavar="FILE", help="an earlier result, of which only the fastest ways are timed")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scale", type=float, help="guidance scale; by default one that shows in the result")
    parser.add_argument("--small", action="store_true", help="a small model in place of ADM-64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement, warm-up not counted (1)")
    parser.add_argument("--limit", type=float, default=30, help="seconds after which no further way is tried (30)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main():
    args = arguments()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    bench = Bench(args)
    log(f"{bench.size} at batch {args.batch}")

    # Before cuDNN begins to try algorithms: what is checked here runs once.
    expected = bench.results(Way(torch.float32, fused=False))
    accuracy = None if args.again else relative([result[:1] for result in expected], bench.double(1))
    size = {name: float(result.square().mean().sqrt()) for name, result in zip(RESULTS, expected)}
    log(f"root mean squares {size}, float32 against float64 {accuracy}")
    if args.out:
        write_files(args.out, bench.size, bench.pair, bench.inputs, expected, bench.c)
        log(f"files in {args.out}")

    cuda = args.device == "cuda"
    torch.backends.cudnn.benchmark = True
    candidates = ways(args.device)
    if args.again:
        with open(args.again, encoding="utf-8") as file:
            names = {(one["precision"], one["way"]) for one in json.load(file)["best"].values()}
        candidates = [way for way in candidates if (way.precision, way.name) in names]
    found, best = time_ways(bench, expected, candidates)
    print(json.dumps({
        "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver(args.device),
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "model": bench.size, "batch": args.batch, "timestep": bench.c.timestep, "scale": bench.c.scale,
        "parameters": {kind: sum(p.numel() for p in model.parameters()) for kind, model in bench.pair.items()},
        "root_mean_squares": size, "float32_error": accuracy, "ways": found, "best": best,
        "seconds": time.perf_counter() - BEGUN,
    }))


BEGUN = time.perf_counter()

if __name__ == "__main__":
    main()
