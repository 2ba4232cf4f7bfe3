"""What `models.conformal` and `models.coverage` promise by validation images, and whether it holds.

Measured on a network's own validation images it is cross-fitted: each fifth is judged by the rest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import conformal, coverage
from models.conformal import HeldOut
from models.manifest import Metric, Task
from models.outputs import Outputs
from training.evaluation import calibration

COVERAGES = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Judged:
    """Images by held-out ones: p-values `[N]`; the mass that is enough for each coverage `[N, K]`,
    None for a multi-label model. held_out: how many images, at most, each was judged by.
    """

    p_values: NDArray[np.float64]
    enough: NDArray[np.float64] | None
    held_out: int


@dataclass(frozen=True)
class LabelSets:
    """The sets of labels for a coverage: the share that has the right label, and the mean size."""

    coverage: float
    right: Metric
    labels: float


def held_out_by(outputs: Outputs, targets: NDArray[np.bool_], task: Task) -> HeldOut:
    """The values of validation images, ascending. targets: `[N, C]`, as `encode` gives them."""
    novelty = None if outputs.novelty is None else np.sort(outputs.novelty)
    if task == "multi":
        return HeldOut(novelty, None)
    return HeldOut(novelty, np.sort(coverage.mass_before(outputs.scores, targets.argmax(1))))


def judge(outputs: Outputs, held_out: HeldOut | None) -> Judged | None:
    """Judge images by held-out ones; None without novelty."""
    if outputs.novelty is None or held_out is None or held_out.novelty is None:
        return None
    p_values, count = conformal.p_values(outputs.novelty, held_out.novelty), len(held_out.novelty)
    if held_out.mass_before is None:
        return Judged(p_values, None, count)
    enough = [coverage.enough(held_out.mass_before, share) for share in COVERAGES]
    return Judged(p_values, np.tile(enough, (len(p_values), 1)), count)


def cross_fitted(outputs: Outputs, targets: NDArray[np.bool_], task: Task) -> Judged | None:
    """Judge validation images, each fifth of them by the other four; None without novelty."""
    if outputs.novelty is None or len(outputs.novelty) < 2:
        return None
    p_values = np.empty(len(targets))
    enough = np.empty((len(targets), len(COVERAGES)))
    folds, most = calibration.folds(len(targets)), 0
    for fold in np.unique(folds):
        own, rest = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        found = judge(outputs.at(own), held_out_by(outputs.at(rest), targets[rest], task))
        assert found is not None
        most = max(most, found.held_out)
        p_values[own] = found.p_values
        if found.enough is not None:
            enough[own] = found.enough
    return Judged(p_values, enough if task == "single" else None, most)


def unknown(p_values: NDArray[np.float64], alpha: float) -> Metric:
    """The share of the images that is unknown, with its exact 95 % interval."""
    return _share(p_values <= alpha)


def label_sets(
    scores: NDArray[np.float32], targets: NDArray[np.bool_], judged: Judged
) -> list[LabelSets]:
    """For each coverage; none for a multi-label model. scores, targets: `[N, C]`."""
    if judged.enough is None:
        return []
    masses = coverage.masses(scores)
    own = masses[targets]
    return [
        LabelSets(share, _share(own <= enough), float((masses <= enough[:, None]).sum(1).mean()))
        for share, enough in zip(COVERAGES, judged.enough.T, strict=True)
    ]


def _share(true: NDArray[np.bool_]) -> Metric:
    from scipy.stats import binomtest  # late: `train` would wait for it before its first step

    interval = binomtest(int(true.sum()), len(true)).proportion_ci(0.95, "exact")
    return Metric(value=float(true.mean()), low=float(interval.low), high=float(interval.high))
