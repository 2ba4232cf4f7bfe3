"""A candidate against the released model on the same images: how much worse it may be.

Both answer each image, so what counts is where they differ. Figures are those where less is better:
error, 1 - mean average precision, 1 - separation. A precision's variant is compared with the
trained network in the same way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from models.manifest import Task
from training.evaluation import metrics

LEVEL = 0.95  # of each one-sided bound
_Z = float(norm.ppf(LEVEL))
_Z_POWER = float(norm.ppf(0.8))

Answers = NDArray[np.bool_]
FIGURE: dict[Task, str] = {"single": "error", "multi": "1 - mAP"}


@dataclass(frozen=True)
class Difference:
    """Two models' figures; 95 % confidence bounds to each side of candidate - released.

    deviation: standard deviation of what one image adds, from which follows how many are needed;
    most: how much an image unlike those seen is taken to add at most.
    """

    candidate: float
    released: float
    low: float
    high: float
    deviation: float
    most: float = 1.0

    @property
    def value(self) -> float:
        return self.candidate - self.released


@dataclass(frozen=True)
class Regression:
    """A label at which the candidate got worse: images lost and won, and Holm's p-value."""

    label: str
    lost: int
    won: int
    p: float


def errors(candidate: Answers, released: Answers) -> Difference:
    """The difference of two error rates, from wrong answers `[N]` to the same images.

    Bounds by the score method for paired proportions (Tango, Statistics in Medicine 17, 1998): they
    hold for few images too, and where the models never differ are as wide as N images allow.
    """
    images = len(candidate)
    lost = int((candidate & ~released).sum())
    won = int((released & ~candidate).sum())

    def score(difference: float) -> float:
        linear = (2 * images - lost + won) * difference - lost - won
        constant = -won * difference * (1 - difference)
        other = (math.sqrt(max(linear**2 - 8 * images * constant, 0)) - linear) / (4 * images)
        variance = images * (2 * other + difference * (1 - difference))
        return (lost - won - images * difference) / math.sqrt(max(variance, 1e-300))

    value, edge = (lost - won) / images, 1 - 1e-9
    low = brentq(lambda d: score(d) - _Z, -edge, value) if value > -edge else -1.0
    high = brentq(lambda d: score(d) + _Z, value, edge) if value < edge else 1.0
    deviation = math.sqrt(max((lost + won) / images - value**2, 1 / images))
    return Difference(
        float(candidate.mean()), float(released.mean()), float(low), float(high), deviation
    )


def precisions(
    candidate: NDArray[np.float32], released: NDArray[np.float32], targets: Answers
) -> Difference:
    """The difference of two 1 - mAP, from scores `[N, C]` for the same images; paired bootstrap."""
    return _resampled(metrics.mean_average_precision, candidate, released, targets, 1.0)


def separations(
    candidate: NDArray[np.float32], released: NDArray[np.float32], targets: Answers
) -> Difference:
    """The difference of two 1 - `metrics.separation`, of one network's scores `[N, C]` in two
    precisions; paired bootstrap.

    Scores change a little on every image and decisions on hardly any, so this shows on few images
    what counting decisions can't.
    """
    most = float(np.abs(candidate - released).max())
    return _resampled(metrics.separation, candidate, released, targets, most)


def _resampled(
    figure: Callable[[NDArray[np.float32], Answers, metrics.Weights], NDArray[np.float64]],
    candidate: NDArray[np.float32],
    released: NDArray[np.float32],
    targets: Answers,
    most: float,
) -> Difference:
    """The difference of 1 - `figure`.

    Resampling images on which models never differ shows no difference at all, so the bounds are at
    least as far away as if as many images as N can miss (Tango's bound on none) added `most` each.
    """
    images = len(targets)
    weights = np.concatenate([np.ones((1, images)), metrics.resamples(images)])
    ours, theirs = (1 - figure(scores, targets, weights) for scores in (candidate, released))
    gaps = ours - theirs
    value = gaps[0]
    low, high = np.nanquantile(gaps[1:], [1 - LEVEL, LEVEL])
    least = most * _Z**2 / (images + _Z**2)
    deviation = max(float(np.nanstd(gaps[1:])) * math.sqrt(images), most / math.sqrt(images))
    return Difference(
        float(ours[0]),
        float(theirs[0]),
        float(min(low, value - least)),
        float(max(high, value + least)),
        deviation,
        most,
    )


def regressions(candidate: Answers, released: Answers, labels: Sequence[str]) -> list[Regression]:
    """The labels at which the candidate got worse by more than chance, surest first.

    candidate, released: wrong answers `[N, C]`, a column a label. One-sided exact McNemar test of
    each label at 5 %, with Holm's correction for testing all of them.
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
    """About how many images tell on which side of `margin` the difference is.

    With 80 % chance, if it stays what it is, and an image adds as much to it as these do; a
    candidate that seems better counts as equally good. A difference that is the margin to within a
    tenth counts as a tenth away from it.
    """
    room = max(abs(margin - max(difference.value, 0)), margin / 10)
    needed = ((_Z + _Z_POWER) * difference.deviation / room) ** 2
    return math.ceil(max(needed, _Z**2 * difference.most / margin))
