"""`--balance`: which images an epoch has, if rare labels are to be seen more often."""

import torch
from torch import Tensor


def shares(targets: Tensor) -> Tensor:
    """How often each image is seen in an epoch, on average: float64 `[N]` with mean 1.

    targets: as `targets.loss_targets` returns them. An image counts by the inverse root of the
    number of images of its label, or of the rarest of its labels, as the repeat factors of LVIS do
    (Gupta, Dollár, Girshick, 2019, appendix A). Images without a label count as one more label.
    """
    if targets.ndim == 1:
        rarest = targets.bincount()[targets].double().rsqrt()
    else:
        has = torch.cat([targets > 0, ~(targets > 0).any(1, keepdim=True)], 1)
        rarest = (has * has.sum(0).clamp(min=1).double().rsqrt()).amax(1)
    return rarest / rarest.mean()


def draw(shares: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows as there are images, in random order: `[N]`.

    Each image comes floor(share) or ceil(share) times (systematic sampling, Madow, 1949), so the
    numbers of the labels hardly differ between epochs.
    """
    count = len(shares)
    ends = shares.cumsum(0)
    first = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(count) + first) * (ends[-1] / count)
    rows = torch.searchsorted(ends, places, right=True).clamp(max=count - 1)
    return rows[torch.randperm(count, generator=generator)]
