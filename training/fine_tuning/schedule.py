"""What is trained when, and at which learning rate: phases, each with a one-cycle schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from training.recipe import Recipe

Step = tuple[float, float]
"""The learning rate of the head, and the mean loss of the batch."""

_RISE = 0.3  # fraction of the steps in which the learning rate rises
_FIRST, _LAST = 1 / 5, 1 / 5e4  # learning rates at both ends, relative to the peak
_MOMENTA = 0.85, 0.95  # Adam's first beta, at the peak and at both ends
WORK = {"head": 1, "whole": 3}  # of a step, by its phase, in forward passes: backward costs two


def cycle(progress: float) -> tuple[float, float]:
    """Fraction of the peak learning rate, and momentum, at `progress` in [0, 1] of the steps.

    Half a cosine up, half a cosine down; the momentum the other way round (Smith & Topin, 2018).
    """
    low, high = _MOMENTA
    if progress < _RISE:
        up = (1 - math.cos(math.pi * progress / _RISE)) / 2
        return _FIRST + (1 - _FIRST) * up, high - (high - low) * up
    down = (1 - math.cos(math.pi * (progress - _RISE) / (1 - _RISE))) / 2
    return 1 - (1 - _LAST) * down, low + (high - low) * down


def peaks(stem: float, head: float, blocks: int) -> list[float]:
    """One peak learning rate per block, from stem to head in a geometric progression."""
    return [stem * (head / stem) ** (block / (blocks - 1)) for block in range(blocks)]


@dataclass(frozen=True)
class Phase:
    """Steps from `first` up to, not including, `last`; one peak learning rate per block."""

    name: str
    first: int
    last: int
    peaks: list[float]

    def progress(self, step: int) -> float:
        """The middle of a step as a fraction of the phase, in (0, 1)."""
        return (step - self.first + 0.5) / (self.last - self.first)


def phases(recipe: Recipe, steps: int, blocks: int) -> list[Phase]:
    """The phases of a run with `steps` steps per epoch; a phase without epochs is left out."""
    frozen, end = recipe.freeze_epochs * steps, (recipe.freeze_epochs + recipe.epochs) * steps
    alone = [0.0] * (blocks - 1) + [recipe.head_lr]
    whole = peaks(*recipe.whole_lrs, blocks)
    both = [Phase("head", 0, frozen, alone), Phase("whole", frozen, end, whole)]
    return [phase for phase in both if phase.first < phase.last]


def work(phases: Sequence[Phase], step: int) -> int:
    """The work of the steps before `step`, in forward passes of a batch; to tell the time left."""
    reached = [phase for phase in phases if phase.first < step]
    return sum((min(phase.last, step) - phase.first) * WORK[phase.name] for phase in reached)


def curve(recipe: Recipe, steps: int, blocks: int, losses: Sequence[float]) -> list[Step]:
    """The head's learning rate and the loss of each finished step; `steps`: per epoch."""
    return [
        (phase.peaks[-1] * cycle(phase.progress(step))[0], losses[step])
        for phase in phases(recipe, steps, blocks)
        for step in range(phase.first, min(phase.last, len(losses)))
    ]


def optimizer(
    blocks: Sequence[nn.Module], peaks: Sequence[float], decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients; no decay on norms and biases."""
    groups = []
    for block, peak in zip(blocks, peaks, strict=True):
        trained = [p for p in block.parameters() if p.requires_grad]
        weights, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]
        groups += [{"params": weights, "peak": peak, "weight_decay": decay}] if weights else []
        groups += [{"params": others, "peak": peak, "weight_decay": 0.0}] if others else []
    return torch.optim.AdamW(groups, fused=True)


def apply(optimizer: torch.optim.AdamW, progress: float) -> None:
    """Set every group's learning rate and momentum to those of the cycle at `progress`."""
    fraction, momentum = cycle(progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * fraction
        group["betas"] = (momentum, group["betas"][1])
