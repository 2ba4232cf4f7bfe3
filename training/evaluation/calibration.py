"""Calibrated probabilities from logits, and a threshold for each label."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from models.decision import above
from models.manifest import Task

Logits = NDArray[np.float32]
Targets = NDArray[np.bool_]
_FOLDS = 5
_TEMPERATURES = (0.05, 20.0)


def probabilities(logits: Logits, task: Task, temperature: float) -> NDArray[np.float32]:
    """Scores `[N, C]`: softmax or sigmoid of logits / temperature."""
    scaled = logits.astype(np.float64) / temperature
    scores = softmax(scaled, axis=1) if task == "single" else expit(scaled)
    return np.asarray(scores, np.float32)


def uncalibrated(
    scores: NDArray[np.float32], task: Task, temperature: float
) -> NDArray[np.float32]:
    """The scores `[N, C]` at temperature 1, from those at `temperature`."""
    with np.errstate(divide="ignore"):  # scores of 0 and 1 stay as they are
        exact = scores.astype(np.float64)
        logits = np.log(exact) if task == "single" else logit(exact)
    return probabilities(logits, task, 1 / temperature)


def logits_of(scores: NDArray[np.float32], task: Task, temperature: float) -> Logits:
    """Logits that give the scores `[N, C]` at `temperature`; single-label: one choice of them.

    They are finite: scores that float32 rounded to 0 or 1 get those of the nearest other one.
    """
    single = np.finfo(np.float32)
    exact = np.maximum(scores.astype(np.float64), single.tiny)
    logits = np.log(exact) if task == "single" else logit(np.minimum(exact, 1 - single.epsneg))
    return np.asarray(logits * temperature, np.float32)


def fit_temperature(logits: Logits, targets: Targets, task: Task) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., 2017).

    targets: `[N, C]`; for single-label, one True per row.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        if task == "single":
            return float(-log_softmax(scaled, axis=1)[targets].mean())
        return float((np.logaddexp(0, scaled) - scaled * targets).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds).x))


def fit_thresholds(scores: NDArray[np.float32], targets: Targets) -> tuple[float, ...]:
    """For each label, the threshold with the best F1, halfway between two float32 scores.

    A label that no image has gets 0.5.
    """
    thresholds = []
    for column, truth in zip(scores.T, targets.T, strict=True):
        order = np.argsort(-column)
        f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(column) + 1) + truth.sum())
        ranked = np.append(column[order], np.float32(0))
        f1[ranked[:-1] == ranked[1:]] = 0  # no threshold separates equal scores
        best = int(np.argmax(f1))
        upper, lower = ranked[best], ranked[best + 1]
        middle = max((upper + lower) / 2, np.nextafter(lower, upper))  # never `lower` itself
        thresholds.append(float(middle) if truth.any() else 0.5)
    return tuple(thresholds)


def folds(images: int) -> NDArray[np.int64]:
    """Which of five folds each image is in `[N]`; with fewer images, each in its own."""
    return np.random.default_rng(0).permutation(images) % min(_FOLDS, images)


def cross_fitted(
    logits: Logits, targets: Targets, task: Task, applied_to: Logits | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores and tags `[N, C]`, each image's from a fit that did not see it (five folds).

    applied_to: logits of a variant of the network, which is served with the temperature and
    thresholds of the network itself; its scores and tags are returned then. For single-label, which
    has no thresholds, all tags are False.
    """
    applied_to = logits if applied_to is None else applied_to
    numbers = folds(len(logits))
    scores = np.empty(logits.shape, np.float32)
    tags = np.zeros(logits.shape, np.bool_)
    for fold in np.unique(numbers):
        valid, rest = numbers == fold, numbers != fold
        if not rest.any():  # a single image: no others to fit on
            rest = valid
        temperature = fit_temperature(logits[rest], targets[rest], task)
        scores[valid] = probabilities(applied_to[valid], task, temperature)
        if task == "multi":
            fitted = probabilities(logits[rest], task, temperature)
            thresholds = fit_thresholds(fitted, targets[rest])
            tags[valid] = above(scores[valid], thresholds)
    return scores, tags
