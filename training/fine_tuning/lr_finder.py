"""The loss while the learning rate rises, and the `--lr` that it suggests (Smith, 2015)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import RunError
from training import output
from training.data import csv_tables
from training.fine_tuning import batches
from training.fine_tuning.batches import TrainingSet
from training.fine_tuning.schedule import phases
from training.fine_tuning.step_timer import Stages
from training.fine_tuning.trainer import FineTuning
from training.recipe import Recipe

STEPS = 100
PICKED = "valley"  # of the suggestions; fastai's default too
_FIRST, _LAST = 1e-7, 10.0
_SMOOTHING = 0.98  # weight of the earlier losses in the running mean
_DIVERGED = 4  # times the best loss ends the sweep
_SKIPPED = (
    STEPS // 10,
    5,
)  # steps at both ends that the suggestions leave out: they are not informative


@dataclass(frozen=True)
class Curve:
    """Learning rates, as for `--lr`, and the smoothed loss at each: `[n]`, n up to 100."""

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]


def with_found_lr(trial: FineTuning) -> Recipe:
    """The recipe of `trial` with the learning rate that its head suggests. Trains `trial`."""
    found = suggest(sweep(trial, "head"))[PICKED]
    output.note(f"--lr auto: {found:.1e}")
    return trial.recipe.model_copy(update={"lr": f"{found:.1e}"})


def sweep(tuning: FineTuning, phase_name: str) -> Curve:
    """Train with a learning rate that rises from 1e-7 to 10 or until the loss is 4 times its best.

    phase_name: head or whole, what is trained. Changes the network: pass a copy.
    """
    recipe, training = tuning.recipe, tuning.training
    unit = recipe.model_copy(update={"lr": "1", "freeze_epochs": 1, "epochs": 1})
    blocks = tuning.network.blocks
    phase = next(p for p in phases(unit, 1, len(blocks)) if p.name == phase_name)
    optimizer = tuning.prepare(phase)
    lrs = _FIRST * (_LAST / _FIRST) ** (np.arange(STEPS) / (STEPS - 1))
    smooth, losses = 0.0, list[float]()
    given = batches.batches(
        training, _rows(training, tuning), 0, recipe, tuning.ranks, Stages(tuning.ranks.device)
    )
    learner = tuning.ranks.wrap(tuning.network)
    bar = output.each(given, f"learning rates, {phase_name}", "steps", STEPS)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lrs[step]
        loss = tuning.ranks.sum(tuning.step(learner, optimizer, batch))
        smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * loss.item()
        losses.append(smooth / (1 - _SMOOTHING ** (step + 1)))
        if not losses[-1] <= _DIVERGED * min(losses):
            break
    kept = [loss for loss in losses if math.isfinite(loss)]
    return Curve(lrs[: len(kept)], np.array(kept))


def suggest(curve: Curve) -> dict[str, float]:
    """fastai's four suggestions. RunError if the curve is too short.

    minimum/10: a tenth of the learning rate at the lowest loss; steep: where the loss falls fastest
    over the logarithm of the learning rate; valley: in the middle of its longest falling
    subsequence; slide: before the slope at the end changes (novetta, 2020).
    """
    first, last = _SKIPPED
    lrs, losses = curve.lrs[first:-last], curve.losses[first:-last]
    if len(lrs) < 20:
        raise RunError(
            f"the loss diverged after {len(curve.lrs)} of {STEPS} steps: too few for a curve"
        )
    slopes = np.diff(losses) / np.diff(np.log(lrs))
    return {
        "minimum/10": float(lrs[losses.argmin()] / 10),
        "steep": float(lrs[slopes.argmin()]),
        "valley": float(lrs[_valley(losses)]),
        "slide": float(lrs[_slide(losses)]),
    }


def _valley(losses: NDArray[np.float64]) -> int:
    """Index half-way between a third and two thirds of the longest falling subsequence.

    As in fastai, it is taken to begin as many places before its end as it is long.
    """
    lengths = np.ones(len(losses), int)
    for end in range(1, len(losses)):
        falling = lengths[:end][losses[:end] > losses[end]]
        lengths[end] = 1 + falling.max(initial=0)
    end, length = int(lengths.argmax()), int(lengths.max())
    return end - length + length // 3 + length // 6


def _slide(losses: NDArray[np.float64], width: int = 15, flat: float = 0.005) -> int:
    """From the right, the last index of those whose slope differs from that `width` steps later."""
    slopes = np.gradient(losses)
    place = last = len(losses) - 1 - width
    while place >= 0 and abs(slopes[place + width] - slopes[place]) > flat:
        place, last = place - 1, place
    return last


def write(folder: Path, curve: Curve, suggestions: dict[str, float]) -> Path:
    """Write `lr_find.csv` and the plot `lr_find.png`, whose path is returned."""
    from matplotlib.figure import Figure  # late: `train` would wait for it before its first step

    points = zip(curve.lrs.tolist(), curve.losses.tolist(), strict=True)
    csv_tables.write(folder / "lr_find.csv", ["rate", "loss"], points)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.lrs, curve.losses, color="black")
    for number, (name, lr) in enumerate(suggestions.items()):
        loss = np.interp(lr, curve.lrs, curve.losses)
        axes.plot([lr], [loss], "o", color=f"C{number}", label=f"{name} {lr:.1e}")
    axes.set(xscale="log", xlabel="--lr", ylabel="loss, smoothed")
    axes.legend()
    file = folder / "lr_find.png"
    figure.savefig(file, dpi=120)
    return file


def _rows(training: TrainingSet, tuning: FineTuning) -> Sequence[torch.Tensor]:
    epochs = (batches.order(training, tuning.recipe, epoch) for epoch in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(epochs), STEPS))
