"""How long work takes: warm-up until a GPU has raised its clock, then many runs; median, least and spread."""
import time

import torch

WARM_SECONDS = 0.4
FEWEST, MOST = 15, 200


def summary(samples):
    """Median, least, and half the distance between the quartiles as a share of the median."""
    ordered = sorted(samples)

    def at(share):
        place = share * (len(ordered) - 1)
        low = int(place)
        return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)

    median = at(0.5)
    return {"ms": median, "least": ordered[0], "spread": (at(0.75) - at(0.25)) / 2 / median, "runs": len(ordered)}


def settle(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure(work, device, seconds):
    """-> {"ms", "least", "spread", "runs", "wall_ms"}: milliseconds of one call of `work`.

    On a GPU between CUDA events, so that what the host does in advance is not counted, but what the GPU waits for is.
    "wall_ms" is the host's clock over all runs, one after another, with one wait at the end.
    """
    work()  # what is compiled, chosen or allocated late is not measured
    settle(device)
    count, started = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - started < WARM_SECONDS:
        work()
        settle(device)
        count += 1
    expected = (time.perf_counter() - started) / count
    runs = max(FEWEST, min(MOST, int(seconds / expected)))
    if device == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
        started = time.perf_counter()
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        settle(device)
        wall = time.perf_counter() - started
        samples = [before.elapsed_time(after) for before, after in zip(marks, marks[1:])]
    else:
        samples, begun = [], time.perf_counter()
        for _ in range(runs):
            started = time.perf_counter()
            work()
            samples.append((time.perf_counter() - started) * 1e3)
        wall = time.perf_counter() - begun
    return {**summary(samples), "wall_ms": wall * 1e3 / runs}
