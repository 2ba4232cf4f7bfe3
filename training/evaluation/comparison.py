"""Compares a candidate with the released model on the same images: how much worse may it be?

Both predict every image, so what counts is where they differ. The metrics are those where less is
better: error, 1 - mean average precision, 1 - micro F1, 1 - separation. A variant in another
precision is compared with the trained network in the same way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from models.manifest import Metric, Task
from training.evaluation import metrics

LEVEL = 0.95  # of each one-sided bound, unless another is asked for
_Z = float(norm.ppf(LEVEL))
_Z_POWER = float(norm.ppf(0.8))

Mask = NDArray[np.bool_]
METRIC: dict[Task, str] = {"single": "error", "multi": "1 - mAP"}
_Metric = Callable[[Any, Mask, metrics.Weights], NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """Two models' metrics, and one-sided confidence bounds of candidate - released, each of 95 %
    unless another level was asked for.

    std: standard deviation of what one image adds, which determines how many images are needed;
    most: the most that an image unlike those seen is assumed to add.
    """

    candidate: float
    released: float
    low: float
    high: float
    std: float
    most: float = 1.0

    @property
    def value(self) -> float:
        return self.candidate - self.released

    @property
    def metric(self) -> Metric:
        """The value and its bounds, for a manifest."""
        return Metric(value=self.value, low=self.low, high=self.high)


@dataclass(frozen=True)
class Regression:
    """A label on which the candidate got worse: images lost and won, and Holm's p-value."""

    label: str
    lost: int
    won: int
    p: float


def errors(candidate: Mask, released: Mask, *, level: float = LEVEL) -> Difference:
    """The difference between two error rates; both masks `[N]` are True where a model is wrong.

    Bounds by the score method for paired proportions (Tango, Statistics in Medicine 17, 1998): they
    hold for few images too, and where the models never differ, they are as wide as N images allow.
    """
    images, z = len(candidate), float(norm.ppf(level))
    lost = int((candidate & ~released).sum())
    won = int((released & ~candidate).sum())

    def score(difference: float) -> float:
        linear = (2 * images - lost + won) * difference - lost - won
        constant = -won * difference * (1 - difference)
        other = (math.sqrt(max(linear**2 - 8 * images * constant, 0)) - linear) / (4 * images)
        variance = images * (2 * other + difference * (1 - difference))
        return (lost - won - images * difference) / math.sqrt(max(variance, 1e-300))

    value, edge = (lost - won) / images, 1 - 1e-9
    low = brentq(lambda d: score(d) - z, -edge, value) if value > -edge else -1.0
    high = brentq(lambda d: score(d) + z, value, edge) if value < edge else 1.0
    std = math.sqrt(max((lost + won) / images - value**2, 1 / images))
    return Difference(float(candidate.mean()), float(released.mean()), float(low), float(high), std)


def average_precisions(
    candidate: NDArray[np.float32], released: NDArray[np.float32], targets: Mask
) -> Difference:
    """The difference between two 1 - mAP, from scores `[N, C]`; paired bootstrap."""
    return _resampled(metrics.mean_average_precision, candidate, released, targets, 1.0)


def tags(candidate: Mask, released: Mask, targets: Mask) -> Difference:
    """The difference between two 1 - micro F1, from tags `[N, C]`; paired bootstrap."""
    return _resampled(metrics.micro_f1, candidate, released, targets, 1.0)


def separations(
    candidate: NDArray[np.float32], released: NDArray[np.float32], targets: Mask
) -> Difference:
    """The difference in 1 - `metrics.separation` between one network's scores `[N, C]` in two
    precisions; paired bootstrap.

    Scores change a little on every image and decisions on hardly any, so this shows with few images
    what counting decisions can't.
    """
    most = float(np.abs(candidate - released).max())
    return _resampled(metrics.separation, candidate, released, targets, most)


def square_changes(candidate: NDArray[np.float32], released: NDArray[np.float32]) -> Difference:
    """The mean square difference between two networks' probabilities `[N, K]`; bootstrap.

    Its root is the most by which the root mean square calibration errors of the two differ while
    the decisions stay, however probabilities are put into bins: a bin's gap changes by the mean of
    its probabilities' changes, whose square is at most the mean of their squares. The calibration
    errors themselves can't be compared on few images: with int8 on 1,156 images of Caltech-101 the
    estimate went from 0.000 to 0.016, while each bin's mean probability moved by 0.0005.
    """
    squares = ((candidate.astype(np.float64) - released) ** 2).mean(1)
    weights = _weights(len(squares))
    ours = weights @ squares / len(squares)
    found = _bounds(ours, np.zeros_like(ours), len(squares), float(squares.max()))
    return replace(found, low=max(found.low, 0.0))


def figures(
    candidate: metrics.WeightedMetrics,
    released: metrics.WeightedMetrics,
    images: int,
    *,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """The differences in all metrics of two models on the same images; paired bootstrap.

    An image unlike those seen is assumed to add at most 1; to a likelihood, 1 nat.
    """
    weights = _weights(images)
    ours, theirs = candidate(weights), released(weights)
    return {name: _bounds(ours[name], theirs[name], images, 1.0, level=level) for name in ours}


def _resampled(
    metric: _Metric, candidate: NDArray[Any], released: NDArray[Any], targets: Mask, most: float
) -> Difference:
    """The difference in 1 - `metric`."""
    weights = _weights(len(targets))
    ours, theirs = (1 - metric(found, targets, weights) for found in (candidate, released))
    return _bounds(ours, theirs, len(targets), most)


def _weights(images: int) -> metrics.Weights:
    """The images as they are, then resampled: `[1 + B, N]`."""
    return np.concatenate([np.ones((1, images)), metrics.resamples(images)])


def _bounds(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    images: int,
    most: float,
    *,
    level: float = LEVEL,
) -> Difference:
    """The difference between two values `[1 + B]`, as `_weights` gives them.

    Resampling images on which the models never differ shows no difference at all. So the bounds
    are at least as wide as if the images that a sample of N can miss (Tango's bound on none) added
    `most` each.
    """
    gaps, z = ours - theirs, float(norm.ppf(level))
    value = gaps[0]
    low, high = np.nanquantile(gaps[1:], [1 - level, level])
    least = most * z**2 / (images + z**2)
    std = max(float(np.nanstd(gaps[1:])) * math.sqrt(images), most / math.sqrt(images))
    return Difference(
        float(ours[0]),
        float(theirs[0]),
        float(min(low, value - least)),
        float(max(high, value + least)),
        std,
        most,
    )


def regressions(candidate: Mask, released: Mask, labels: Sequence[str]) -> list[Regression]:
    """The labels on which the candidate got worse by more than chance, smallest p-value first.

    candidate, released: masks `[N, C]` of wrong decisions, a column per label. One-sided exact
    McNemar test of each label at 5 %, with Holm's correction for testing all of them.
    """
    lost = (candidate & ~released).sum(0).tolist()
    won = (released & ~candidate).sum(0).tolist()
    p = [
        binomtest(a, a + b, 0.5, alternative="greater").pvalue if a + b else 1.0
        for a, b in zip(lost, won, strict=True)
    ]
    found = [
        Regression(label, a, b, q)
        for label, a, b, q in zip(labels, lost, won, holm(p), strict=True)
        if q <= 1 - LEVEL
    ]
    return sorted(found, key=lambda regression: regression.p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the same order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def images_needed(difference: Difference, margin: float) -> int:
    """About how many images would show on which side of `margin` the difference lies.

    With a power of 80 %, if the difference stays the same and each image adds as much to it as
    these do; a candidate that seems better counts as equally good. A difference within a tenth of
    the margin counts as a tenth of the margin away from it.
    """
    room = max(abs(margin - max(difference.value, 0)), margin / 10)
    needed = ((_Z + _Z_POWER) * difference.std / room) ** 2
    return math.ceil(max(needed, _Z**2 * difference.most / margin))


def images_to_show(difference: Difference, *, level: float = LEVEL) -> int | None:
    """About how many images would show a difference of this size, with a power of 80 %.

    None if there is none. The same is assumed as by `images_needed`.
    """
    if not difference.value:
        return None
    z = float(norm.ppf(level)) + _Z_POWER
    return math.ceil((z * difference.std / difference.value) ** 2)
