"""Whether one U-Net is better than another, beyond chance; both of the same data, classes and process.

    python3 compare.py A.safetensors B.safetensors --data DIR --set fashion-mnist \\
        --judge ../evaluation/fashion-mnist-judge.safetensors

Losses on test pictures, and figures of sampled pictures as the judge, a classifier of clean pictures, sees them. Both
models get the same pictures, timesteps and noise, so that their difference is known better than either figure; ± is its
standard error, for losses over pictures, for samples over ten blocks of them (the jackknife).
"""
import argparse

import numpy as np
import torch

from data import LOADERS, load
from diffusion import Diffusion
from export import batched, evenly_by_class, load_model
from train import QUARTERS, STEPS

NEIGHBOURS = 3
BLOCKS = 10


@torch.no_grad()
def losses(model, process, x, labels, draws):
    """-> {"mse", "bound"} and these by quarter of the timesteps, [N] each: every picture's mean over its draws.

    A picture is noised `draws` times in each quarter. Bounds are sums over the timesteps, in bits per dimension.
    """
    generator = torch.Generator().manual_seed(0)
    found = {}

    def terms(*given):
        both = process.losses(model, *given)
        return torch.stack([both["mse"], both["vb"]], dim=1).double()

    for quarter in range(QUARTERS):
        mse = bound = 0
        for _ in range(draws):
            t = (torch.rand(len(x), generator=generator) + quarter) * (STEPS / QUARTERS)
            noise = torch.randn(x.shape, generator=generator)
            values = batched(terms, x, t.long(), noise, labels)
            mse = mse + values[:, 0] / draws
            bound = bound + values[:, 1] * (STEPS / QUARTERS / draws)
        since = quarter * STEPS // QUARTERS
        found.update({f"mse, t from {since}": mse, f"bound, t from {since}": bound})

    def total(name):
        return sum(values for key, values in found.items() if key.startswith(name))
    return {"mse": total("mse") / QUARTERS, "bound": total("bound"), **found}


@torch.no_grad()
def samples(model, process, shape, labels):
    """DDIM from the same noise for the same seed -> [N, C, H, W] in [-1, 1]"""
    start = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(0))
    return batched(lambda x, y: list(process.ddim(model, x, y))[-1]["sample"].clamp(-1, 1), start, labels)


@torch.no_grad()
def judged(judge, x, labels):
    """-> features [N, F] in float64, [N] whether the judge names the label"""
    def both(part):
        at = torch.zeros(len(part))
        return torch.cat([judge.features(part, at), judge(part, at)], dim=1)
    values = batched(both, x).double().numpy()
    classes = judge.out_channels
    return values[:, :-classes], values[:, -classes:].argmax(1) == labels.numpy()


def square_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(a, b):
    """Of two sets of features (Heusel et al. 2017); biased upwards, less so the more pictures there are."""
    root = square_root(np.cov(a.T))
    other = np.cov(b.T)
    shared = np.linalg.eigvalsh(root @ other @ root)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return means + np.trace(np.cov(a.T)) + np.trace(other) - 2 * np.sqrt(np.maximum(shared, 0)).sum()


def kernel(a, b):
    """The squared maximum mean discrepancy with (x.y / F + 1)^3 (Bińkowski et al. 2018), unbiased for independent pictures.

    Sets with equally many of each class are not quite that: it comes out a little low, for every model alike.
    """
    def within(x):
        table = (x @ x.T / x.shape[1] + 1) ** 3
        return (table.sum() - np.trace(table)) / (len(x) * (len(x) - 1))
    return within(a) + within(b) - 2 * ((a @ b.T / a.shape[1] + 1) ** 3).mean()


def squared_distances(a, b):
    return np.maximum((a ** 2).sum(1)[:, None] + (b ** 2).sum(1) - 2 * a @ b.T, 0)


def coverage(points, those):
    """The share of `points` in a ball of `those`, which reach to the third neighbour (Kynkäänniemi et al. 2019)."""
    # A picture is its own nearest one.
    radii = np.sort(squared_distances(those, those), axis=1)[:, NEIGHBOURS]
    return (squared_distances(points, those) <= radii).any(1).mean()


def figures(features, right, real):
    return {"Fréchet distance": frechet(real, features), "kernel distance × 100": 100 * kernel(real, features),
            "precision": coverage(features, real), "recall": coverage(real, features), "agreement": right.mean()}


def sampled_rows(a, b, real):
    """Rows of figures(a) and figures(b) with the jackknife's error of the difference; a, b = (features, right)."""
    def both(keep):
        first, second = (figures(features[keep], right[keep], real) for features, right in (a, b))
        return {name: (first[name], second[name]) for name in first}
    block = np.arange(len(a[1])) * BLOCKS // len(a[1])
    without = [both(block != k) for k in range(BLOCKS)]
    for name, (first, second) in both(block >= 0).items():
        left = np.array([second - first for first, second in (part[name] for part in without)])
        yield name, first, second, np.sqrt((BLOCKS - 1) / BLOCKS * ((left - left.mean()) ** 2).sum())


def loss_rows(a, b):
    for name in a:
        difference = b[name] - a[name]
        yield name, a[name].mean(), b[name].mean(), difference.std() / len(difference) ** 0.5


def show(title, rows):
    print(f"\n{title}\n\n| | A | B | B - A |\n| --- | --- | --- | --- |")
    for name, first, second, error in rows:
        print(f"| {name} | {first:.5g} | {second:.5g} | {second - first:+.2g} ± {error:.1g} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="FILE", help="A and B, exported U-Nets")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--set", required=True, choices=sorted(LOADERS))
    parser.add_argument("--judge", required=True, metavar="FILE")
    parser.add_argument("--count", type=int, default=2000, help="test pictures, for losses and to compare with (2000)")
    parser.add_argument("--draws", type=int, default=1, help="of noise a picture and quarter of the timesteps (1)")
    parser.add_argument("--samples", type=int, default=1000, help="pictures to sample, 25 steps of DDIM (1000)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    (a, config), (b, other) = (load_model(path) for path in args.models)
    if any(config.get(name) != other.get(name) for name in ("kind", "diffusion", "classes", "null_class")):
        raise SystemExit("the two files differ in kind, process or classes")
    judge, judging = load_model(args.judge)
    if config["kind"] != "unet" or judging["kind"] != "classifier":
        raise SystemExit("compare.py takes two U-Nets, and a classifier as --judge")
    schedule = config["diffusion"]["noise_schedule"]
    process, short = Diffusion(STEPS, schedule), Diffusion(STEPS, schedule, spacing="ddim25")
    x, y = evenly_by_class(load(args.set, args.data, "test"), args.count)
    real, right = judged(judge, x, y)
    print(f"A {args.models[0]}, B {args.models[1]}; {len(x)} test pictures, of which the judge names "
          f"{100 * right.mean():.1f} % rightly; Fréchet distance of their two halves "
          f"{frechet(real[:len(x) // 2], real[len(x) // 2:]):.3g}")
    wanted = torch.arange(args.samples) % len(config["classes"])

    def sampled(model, labels):
        return judged(judge, samples(model, short, x.shape[1:], labels), wanted)

    for name, told in (("the class", lambda labels: labels),
                       ("the null class", lambda labels: torch.full_like(labels, config["null_class"]))):
        show(f"Losses with {name}, {args.draws} draw(s) a picture and quarter",
             loss_rows(*(losses(model, process, x, told(y), args.draws) for model in (a, b))))
        show(f"{args.samples} samples with {name}, DDIM, 25 steps",
             sampled_rows(*(sampled(model, told(wanted)) for model in (a, b)), real))


if __name__ == "__main__":
    main()
