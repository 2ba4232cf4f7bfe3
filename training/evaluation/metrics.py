"""Figures of both tasks, each with its 95 % bootstrap interval.

Every figure is a function of weights, one an image: all ones gives the value, and resampling the
images (Efron's bootstrap) is drawing multinomial weights. So one pass gives value and interval. The
calibration error, which resampling makes larger, is in `calibration_error`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.decision import rank
from models.manifest import Metric

Scores = NDArray[np.float32]
Weights = NDArray[np.float64]
Figures = Callable[[Weights], dict[str, NDArray[np.float64]]]
"""weights `[B, N]`, one an image -> each figure `[B]`."""

_RESAMPLES = 1000


def single_label(scores: Scores, targets: NDArray[np.int64]) -> Figures:
    """Figures of softmax scores `[N, C]` against the true labels' indices `[N]`.

    error and top5_error: shares of images; macro_f1: mean over labels that occur; nll: mean
    negative log-likelihood, nats.
    """
    labels = scores.shape[1]
    order = rank(scores)
    predicted = order[:, 0]
    right = predicted == targets
    among_five = (order[:, :5] == targets[:, None]).any(1)
    likelihood = np.maximum(scores[np.arange(len(targets)), targets], np.finfo(np.float32).tiny)
    nll = -np.log(likelihood.astype(np.float64))
    true, found = np.eye(labels)[targets], np.eye(labels)[predicted]

    def figures(weights: Weights) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(1)
        return {
            "error": 1 - weights @ right / total,
            "top5_error": 1 - weights @ among_five / total,
            "macro_f1": _label_mean(_f1(weights, true, found)),
            "nll": weights @ nll / total,
        }

    return figures


def multi_label(scores: Scores, targets: NDArray[np.bool_], tags: NDArray[np.bool_]) -> Figures:
    """Figures of sigmoid scores `[N, C]` and of the tags decided from them, both against truth.

    map: mean over labels of average precision; micro_f1, macro_f1, accuracy_multi (share of
    right image-label pairs): of the tags; accuracy_all_negative: accuracy_multi of saying
    nothing. Labels without an image are left out of means over labels.
    """

    def figures(weights: Weights) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(1)
        right = weights @ (targets & tags).sum(1)
        either = weights @ (targets.sum(1) + tags.sum(1))
        return {
            "map": mean_average_precision(scores, targets, weights),
            "micro_f1": 2 * right / np.maximum(either, 1e-12),
            "macro_f1": _label_mean(_f1(weights, targets, tags)),
            "accuracy_multi": weights @ (targets == tags).mean(1) / total,
            "accuracy_all_negative": weights @ (~targets).mean(1) / total,
        }

    return figures


def average_precision(
    scores: Scores, targets: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    """Σ (Rₙ − Rₙ₋₁) Pₙ over falling thresholds, one value a row of weights `[B, N]`.

    Scores `[N]` that are equal share a threshold, as in scikit-learn's
    `average_precision_score`. NaN where no weight falls on a true image.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]
    found = np.cumsum(drawn * targets[order], 1)[:, ends]
    shown = np.cumsum(drawn, 1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0)
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
    """Each label's mean score of images that have it, less that of those that don't: the mean over
    labels, one value a row of weights `[B, N]`, in [-1, 1] (Tjur, American Statistician 63, 2009).

    Labels that no image has are left out; where every image has one, the second mean is 0.
    """
    exact = scores.astype(np.float64)
    with np.errstate(invalid="ignore"):
        having = weights @ (exact * targets) / (weights @ targets)
    lacking = weights @ (exact * ~targets) / np.maximum(weights @ ~targets, 1e-12)
    return _label_mean(having - lacking)


def _f1(weights: Weights, true: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """F1 of each label `[B, C]`, from 0 or 1 `[N, C]`; NaN where it is never true."""
    occurs = weights @ true.astype(np.float64)
    both = weights @ (true * found).astype(np.float64)
    either = occurs + weights @ found.astype(np.float64)
    return np.asarray(2 * both / np.where(occurs > 0, either, np.nan))


def _label_mean(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean `[B]` over the labels of `[B, C]` that are not NaN; NaN where all of them are."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(figures, 1) / np.isfinite(figures).sum(1))


def values(figures: Figures, images: int) -> dict[str, float]:
    """The figures on the images as they are."""
    found = figures(np.ones((1, images)))
    return {name: float(value[0]) for name, value in found.items()}


def resamples(images: int) -> Weights:
    """1,000 seeded draws of as many images, with replacement: weights `[1000, N]`."""
    even = np.full(images, 1 / images)
    draws = np.random.default_rng(0).multinomial(images, even, size=_RESAMPLES)
    return draws.astype(np.float64)


def with_intervals(figures: Figures, images: int) -> dict[str, Metric]:
    """The figures with their 95 % percentile intervals, from 1,000 seeded resamples."""
    resampled = figures(resamples(images))
    metrics = {}
    for name, value in values(figures, images).items():
        low, high = np.nanquantile(resampled[name], [0.025, 0.975])
        metrics[name] = Metric(value=value, low=float(low), high=float(high))
    return metrics
