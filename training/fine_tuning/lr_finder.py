"""The loss while the learning rate rises step by step, and what `--lr` to take (Smith, 2015)."""

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from models.bundle import write_atomically
from models.errors import RunError
from training.fine_tuning import batches
from training.fine_tuning.batches import Training
from training.fine_tuning.schedule import phases
from training.fine_tuning.step_timer import Stages
from training.fine_tuning.trainer import FineTuning
from training.recipe import Recipe

STEPS = 100
_FIRST, _LAST = 1e-7, 10.0
_SMOOTHING = 0.98  # share of the former losses in the running mean
_DIVERGED = 4  # times the best loss: the end
_SKIPPED = STEPS // 10, 5  # steps at both ends that say nothing; the suggestions leave them out


@dataclass(frozen=True)
class Curve:
    """Rates, as `--lr` means them, and the smoothed loss at each: `[n]`, n up to 100."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]


def with_found_rate(trial: FineTuning) -> Recipe:
    """The recipe of `trial`, which is trained, with the rate that its head's valley suggests."""
    valley = suggest(sweep(trial, "head"))["valley"]
    print(f"--lr auto: {valley:.1e}")
    return trial.recipe.model_copy(update={"lr": f"{valley:.1e}"})


def sweep(tuning: FineTuning, phase_name: str) -> Curve:
    """Train with a rate that rises from 1e-7 to 10 until the loss is four times its best.

    phase_name: head or whole, what learns. Changes the network: give it a copy.
    """
    recipe, training = tuning.recipe, tuning.training
    unit = recipe.model_copy(update={"lr": "1", "freeze_epochs": 1, "epochs": 1})
    blocks = tuning.network.blocks
    phase = next(p for p in phases(unit, 1, len(blocks)) if p.name == phase_name)
    optimizer = tuning.prepare(phase)
    rates = _FIRST * (_LAST / _FIRST) ** (np.arange(STEPS) / (STEPS - 1))
    smooth, losses = 0.0, list[float]()
    given = batches.batches(
        training, _rows(training, tuning), 0, recipe, tuning.ranks, Stages(tuning.ranks.device)
    )
    learner = tuning.ranks.wrap(tuning.network)
    bar = tqdm(given, f"rates, {phase_name}", STEPS, unit=" steps", leave=False, disable=None)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rates[step]
        loss = tuning.ranks.sum(tuning.step(learner, optimizer, batch))
        smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * loss.item()
        losses.append(smooth / (1 - _SMOOTHING ** (step + 1)))
        if not losses[-1] <= _DIVERGED * min(losses):
            break
    kept = [loss for loss in losses if math.isfinite(loss)]
    return Curve(rates[: len(kept)], np.array(kept))


def suggest(curve: Curve) -> dict[str, float]:
    """fastai's four suggestions. RunError if the loss says nothing.

    minimum/10: a tenth of the rate at the least loss; steep: where the loss falls fastest in the
    logarithm of the rate; valley: two thirds into its longest falling subsequence; slide: before
    the slope at the end changes (novetta, 2020).
    """
    first, last = _SKIPPED
    rates, losses = curve.rates[first:-last], curve.losses[first:-last]
    if len(rates) < 20:
        raise RunError(f"the loss diverged after {len(curve.rates)} of {STEPS} steps: no curve")
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return {
        "minimum/10": float(rates[losses.argmin()] / 10),
        "steep": float(rates[slopes.argmin()]),
        "valley": float(rates[_valley(losses)]),
        "slide": float(rates[_slide(losses)]),
    }


def _valley(losses: NDArray[np.float64]) -> int:
    """Half of the way from a third to two thirds of the longest falling subsequence.

    That is taken to begin as many places before its end as it is long, as fastai does.
    """
    lengths = np.ones(len(losses), int)
    for end in range(1, len(losses)):
        falling = lengths[:end][losses[:end] > losses[end]]
        lengths[end] = 1 + falling.max(initial=0)
    end, length = int(lengths.argmax()), int(lengths.max())
    return end - length + length // 3 + length // 6


def _slide(losses: NDArray[np.float64], width: int = 15, flat: float = 0.005) -> int:
    """From the right, the last place whose slope is not yet that of `width` steps on."""
    slopes = np.gradient(losses)
    place = last = len(losses) - 1 - width
    while place >= 0 and abs(slopes[place + width] - slopes[place]) > flat:
        place, last = place - 1, place
    return last


def write(folder: Path, curve: Curve, suggestions: dict[str, float]) -> Path:
    """`lr_find.csv` and the picture `lr_find.png`, whose path is returned."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["rate", "loss"])
    writer.writerows(zip(curve.rates.tolist(), curve.losses.tolist(), strict=True))
    write_atomically(folder / "lr_find.csv", text.getvalue().encode())
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="black")
    for number, (name, rate) in enumerate(suggestions.items()):
        loss = np.interp(rate, curve.rates, curve.losses)
        axes.plot([rate], [loss], "o", color=f"C{number}", label=f"{name} {rate:.1e}")
    axes.set(xscale="log", xlabel="--lr", ylabel="loss, smoothed")
    axes.legend()
    file = folder / "lr_find.png"
    figure.savefig(file, dpi=120)
    return file


def _rows(training: Training, tuning: FineTuning) -> Sequence[torch.Tensor]:
    epochs = (batches.order(training, tuning.recipe, epoch) for epoch in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(epochs), STEPS))
