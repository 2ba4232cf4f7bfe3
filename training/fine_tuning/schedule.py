"""The optimizer and its one-cycle schedule: rates that fall from head to stem."""

import math
from collections.abc import Sequence

import torch
from torch import nn

_RISE = 0.3  # share of the steps in which the rate rises
_FIRST, _LAST = 1 / 5, 1 / 5e4  # rates at both ends, of the peak
_MOMENTA = 0.85, 0.95  # Adam's first beta, at the peak and at both ends


def cycle(progress: float) -> tuple[float, float]:
    """Share of the peak rate, and momentum, at `progress` in [0, 1] of the steps.

    Half a cosine up, half a cosine down; the momentum the other way round (Smith & Topin, 2018).
    """
    low, high = _MOMENTA
    if progress < _RISE:
        up = (1 - math.cos(math.pi * progress / _RISE)) / 2
        return _FIRST + (1 - _FIRST) * up, high - (high - low) * up
    down = (1 - math.cos(math.pi * (progress - _RISE) / (1 - _RISE))) / 2
    return 1 - (1 - _LAST) * down, low + (high - low) * down


def rates(stem: float, head: float, blocks: int) -> list[float]:
    """One peak rate a block, from stem to head in a geometric progression."""
    return [stem * (head / stem) ** (block / (blocks - 1)) for block in range(blocks)]


def optimizer(
    blocks: Sequence[nn.Module], peaks: Sequence[float], decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; no decay on norms and biases."""
    groups = []
    for block, peak in zip(blocks, peaks, strict=True):
        learning = [p for p in block.parameters() if p.requires_grad]
        weights, others = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim == 1]
        groups += [{"params": weights, "peak": peak, "weight_decay": decay}] if weights else []
        groups += [{"params": others, "peak": peak, "weight_decay": 0.0}] if others else []
    return torch.optim.AdamW(groups, fused=True)


def turn(optimizer: torch.optim.AdamW, progress: float) -> None:
    """Set every group's rate and momentum to where the cycle is at `progress`."""
    share, momentum = cycle(progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
        group["betas"] = (momentum, group["betas"][1])
