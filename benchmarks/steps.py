"""Where the time of a training step goes, and whether torch.compile would shorten it.

python -m benchmarks.steps [ROUNDS [SIZE_PX]]

Trains a ResNet-18 on noise images at SIZE_PX (128), as `train` does, and with parts of a step left
out or done otherwise. All take turns in one process, ROUNDS (7) times; prints images a second
(median and range), the ratio to `train`'s, and the share of each kind of operator, by torch's
profiler. torch.compile needs a C++ compiler; what it says without one is printed too.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import cast

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.noise_steps import BATCH, CPU, STEPS, noise_steps
from models.hardware import cpu_cores, processor
from training.fine_tuning.loss import precision
from training.fine_tuning.trainer import FineTuning

KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("mkldnn_convolution", "thnn_conv", "slow_conv"),
    "batch norm, backward": ("batch_norm_backward",),
    "batch norm, forward": ("batch_norm",),
    "ReLU and sums": ("threshold_backward", "clamp_min", "relu", "add", "sum"),
    "pooling": ("pool",),
    "optimizer": ("adamw", "norm", "foreach"),
    "copies and casts": ("copy", "_to_copy", "clone", "contiguous", "fill", "zero"),
    "augmentation": ("grid_sampl", "affine_grid", "interpolate", "upsample"),
}
Epoch = Callable[[], None]


def epochs(size_px: int) -> dict[str, Epoch]:
    """What takes turns: each trains on the same few batches."""
    noise = noise_steps(size_px)
    ready = list(noise.batches())
    tuning, optimizer = noise.tuning()
    other, other_optimizer = noise.tuning(torch.contiguous_format)
    compiled, compiled_optimizer = noise.tuning()
    graph = cast(nn.Module, torch.compile(compiled.network))

    def trained() -> None:
        for batch in noise.batches():
            tuning.step(tuning.network, optimizer, batch)

    def stepped(tuning: FineTuning, learner: nn.Module, optimizer: torch.optim.AdamW) -> Epoch:
        def run() -> None:
            for batch in ready:
                tuning.step(learner, optimizer, batch)

        return run

    def differentiated() -> None:
        for batch, targets, _ in ready:
            with precision(CPU, noise.recipe.dtype):
                logits = tuning.network(batch)
            tuning.loss(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()

    def predicted() -> None:
        for batch, *_ in ready:
            with torch.no_grad(), precision(CPU, noise.recipe.dtype):
                tuning.network(batch)

    return {
        "as `train` does": trained,
        "batches ready": stepped(tuning, tuning.network, optimizer),
        "forward and backward only": differentiated,
        "forward only": predicted,
        "channels first, batches ready": stepped(other, other.network, other_optimizer),
        "torch.compile, batches ready": stepped(compiled, graph, compiled_optimizer),
    }


def operators(epoch: Epoch) -> Counter[str]:
    """Microseconds of the operators of each kind."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        epoch()
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        kinds = (kind for kind, names in KINDS.items() if any(n in event.key for n in names))
        found[next(kinds, "everything else")] += event.self_cpu_time_total
    return found


def main(rounds: int, size_px: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(cpu_cores())
    print(f"{processor()}, {cpu_cores()} threads, torch {torch.__version__}, {rounds} rounds\n")
    runs = epochs(size_px)
    for name in list(runs):
        began = time.perf_counter()
        try:
            runs[name]()
        except Exception as error:  # no compiler
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            del runs[name]
            continue
        if "compile" in name:
            print(f"torch.compile: {time.perf_counter() - began:.0f} s for the first epoch\n")
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            speeds[name].append(STEPS * BATCH / (time.perf_counter() - began))
    base = next(iter(speeds.values()))
    print("| | images/s | relative to `train` |\n|---|---|---|")
    for name, found in speeds.items():
        ratios = [speed / reference for speed, reference in zip(found, base, strict=True)]
        print(
            f"| {name} | {median(found):.0f} ({min(found):.0f} to {max(found):.0f})"
            f" | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    shares = operators(next(iter(runs.values())))
    print("\n| operators | share |\n|---|---|")
    for kind, microseconds in shares.most_common():
        print(f"| {kind} | {microseconds / shares.total():.0%} |")


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    words = [int(word) for word in sys.argv[1:]]
    main(*(words + [7, 128][len(words) :]))
