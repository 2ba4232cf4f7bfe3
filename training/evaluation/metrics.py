"""Metrics of both tasks, each with its 95 % interval.

Every metric is a function of weights, one per image: all ones give the value, and resampling the
images (Efron's bootstrap) means drawing multinomial weights. So the same function gives value and
interval, but that of an error: a resample of images that are all right has no wrong one. The
calibration error, which resampling inflates, is in `calibration_error`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.decision import rank
from models.manifest import Metric

Scores = NDArray[np.float32]
Weights = NDArray[np.float64]
WeightedMetrics = Callable[[Weights], dict[str, NDArray[np.float64]]]
"""weights `[B, N]`, one per image -> each metric `[B]`."""

_RESAMPLES = 1000
_Z = 1.959964  # the normal distribution's 97.5th percentile
_SHARES = ("error", "top5_error")  # of images that are wrong; the others are means and ratios


def single_label(scores: Scores, targets: NDArray[np.int64]) -> WeightedMetrics:
    """Metrics of softmax scores `[N, C]`; targets: the indices of the true labels `[N]`.

    error and top5_error: shares of images; macro_f1: mean over labels that occur; nll: mean
    negative log-likelihood, in nats.
    """
    labels = scores.shape[1]
    order = rank(scores)
    predicted = order[:, 0]
    right = predicted == targets
    among_five = (order[:, :5] == targets[:, None]).any(1)
    likelihood = np.maximum(scores[np.arange(len(targets)), targets], np.finfo(np.float32).tiny)
    nll = -np.log(likelihood.astype(np.float64))
    true, found = np.eye(labels)[targets], np.eye(labels)[predicted]

    def weighted(weights: Weights) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(1)
        return {
            "error": 1 - weights @ right / total,
            **({"top5_error": 1 - weights @ among_five / total} if labels > 5 else {}),
            "macro_f1": _label_mean(_f1(weights, true, found)),
            "nll": weights @ nll / total,
        }

    return weighted


def multi_label(
    scores: Scores, targets: NDArray[np.bool_], tags: NDArray[np.bool_]
) -> WeightedMetrics:
    """Metrics of sigmoid scores `[N, C]` and of the tags predicted from them.

    map: mean over labels of average precision; micro_f1, macro_f1, accuracy_multi (share of
    correct image-label pairs): of the tags; accuracy_all_negative: accuracy_multi if no tag were
    predicted. Labels without an image are left out of means over labels.
    """

    def weighted(weights: Weights) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(1)
        return {
            "map": mean_average_precision(scores, targets, weights),
            "micro_f1": micro_f1(tags, targets, weights),
            "macro_f1": _label_mean(_f1(weights, targets, tags)),
            "accuracy_multi": weights @ (targets == tags).mean(1) / total,
            "accuracy_all_negative": weights @ (~targets).mean(1) / total,
        }

    return weighted


def average_precision(
    scores: Scores, targets: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    """Σ (Rₙ − Rₙ₋₁) Pₙ over descending thresholds, one value per row of weights `[B, N]`.

    Equal scores `[N]` share a threshold, as in scikit-learn's `average_precision_score`. NaN where
    every image with the label has weight 0.
    """
    order = np.argsort(-scores)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]
    found = np.cumsum(drawn * targets[order], 1)[:, ends]
    shown = np.cumsum(drawn, 1)[:, ends]
    gained = np.diff(found, prepend=0)
    precision = found / np.maximum(shown, 1e-12)
    with np.errstate(invalid="ignore"):
        return np.asarray((gained * precision).sum(1) / found[:, -1])


def mean_average_precision(
    scores: Scores, targets: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    """Of scores `[N, C]` under each row of weights `[B, N]`: `[B]`."""
    return _label_mean(_label_precisions(scores, targets, weights))


def label_precisions(scores: Scores, targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of each label `[C]`; NaN where no image has it."""
    return np.asarray(_label_precisions(scores, targets, np.ones((1, len(scores))))[0])


def _label_precisions(
    scores: Scores, targets: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    columns = zip(scores.T, targets.T, strict=True)
    return np.stack([average_precision(predicted, true, weights) for predicted, true in columns], 1)


def separation(scores: Scores, targets: NDArray[np.bool_], weights: Weights) -> NDArray[np.float64]:
    """Each label's mean score of images that have it minus that of images that don't, averaged over
    labels: one value per row of weights `[B, N]`, in [-1, 1] (Tjur, American Statistician 63,
    2009).

    Labels that no image has are left out; where every image has one, the second mean is 0.
    """
    with np.errstate(invalid="ignore"):
        having = weights @ (scores * targets) / (weights @ targets)
    lacking = weights @ (scores * ~targets) / np.maximum(weights @ ~targets, 1e-12)
    return _label_mean(having - lacking)


def micro_f1(
    tags: NDArray[np.bool_], targets: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    """F1 over all labels together, one value per row of weights `[B, N]`; tags, targets: `[N, C]`.

    0 if there are neither tags nor labels.
    """
    right = weights @ (targets & tags).sum(1)
    either = weights @ (targets.sum(1) + tags.sum(1))
    return np.asarray(2 * right / np.maximum(either, 1e-12))


def _f1(weights: Weights, true: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """F1 of each label `[B, C]`, from arrays of 0 and 1 `[N, C]`; NaN where it is never true."""
    occurs = weights @ true
    both = weights @ (true * found)
    either = occurs + weights @ found
    return np.asarray(2 * both / np.where(occurs > 0, either, np.nan))


def _label_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean `[B]` over the labels of `[B, C]` that are not NaN; NaN where all of them are."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, 1) / np.isfinite(values).sum(1))


def values(weighted: WeightedMetrics, images: int) -> dict[str, float]:
    """The metrics on the images as they are, each with weight 1."""
    found = weighted(np.ones((1, images)))
    return {name: float(value[0]) for name, value in found.items()}


def resamples(images: int) -> Weights:
    """1,000 seeded draws of N images with replacement, as weights `[1000, N]`."""
    even = np.full(images, 1 / images)
    draws = np.random.default_rng(0).multinomial(images, even, size=_RESAMPLES)
    return draws.astype(np.float64)


def with_intervals(weighted: WeightedMetrics, images: int) -> dict[str, Metric]:
    """The metrics with their 95 % intervals: of errors Wilson's, of the others percentiles of 1,000
    seeded resamples.
    """
    resampled = weighted(resamples(images))
    metrics = {}
    for name, value in values(weighted, images).items():
        if name in _SHARES:
            metrics[name] = of_share(value, images)
            continue
        low, high = np.nanquantile(resampled[name], [0.025, 0.975])
        metrics[name] = Metric(value=value, low=float(low), high=float(high))
    return metrics


def of_share(share: float, images: int) -> Metric:
    """A share of images, in [0, 1], with its 95 % interval, which holds for none or few too.

    The score interval of Wilson (Journal of the American Statistical Association 22, 1927).
    """
    scale = 1 + _Z**2 / images
    middle = (share + _Z**2 / images / 2) / scale
    half = _Z * math.sqrt(share * (1 - share) / images + (_Z / images / 2) ** 2) / scale
    # at 0 and 1 one end is the share itself, but for rounding
    low, high = min(share, max(middle - half, 0.0)), max(share, min(middle + half, 1.0))
    return Metric(value=share, low=low, high=high)


def difference(new: Metric, old: Metric) -> Metric:
    """new - old, of independent images, with its 95 % interval from those of the two.

    Zou and Donner, Statistics in Medicine 27 (2008), the square-and-add method. Where the same
    images are in both, the interval is wider than it need be.
    """
    value = new.value - old.value
    below = math.hypot(new.value - new.low, old.high - old.value)
    above = math.hypot(new.high - new.value, old.value - old.low)
    return Metric(value=value, low=value - below, high=value + above)
