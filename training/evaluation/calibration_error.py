"""The calibration error, debiased, with a confidence interval.

The plain (plug-in) calibration error counts sampling noise as error: it is above zero even for a
calibrated model, and larger still on resampled images, so a bootstrap interval may lie entirely
above it. The square of the L2 error has an unbiased estimate: subtract what chance alone adds from
each bin's squared gap (Kumar, Liang, Ma, Verified Uncertainty Calibration, NeurIPS 2019, section
4).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from models.manifest import Metric

BINS = 15
_DRAWS = 2_000
_TAIL = 0.025


def bins(predicted: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each probability, counted from 0; all bins are equally wide."""
    return np.asarray(np.minimum(predicted * np.float32(BINS), BINS - 1), np.int64)


def measure(predicted: NDArray[np.float32], true: NDArray[np.bool_]) -> Metric:
    """Root mean square calibration error of probabilities `[N, K]`, with its 95 % interval.

    sqrt(Σ share gap²) over the bins; gap: mean probability minus the share that came true.

    The interval inverts a test, so it also holds for calibrated models, whose estimate is far from
    normal (Sun, Chaudhari, Barnett, Dobriban, A Confidence Interval for the l2 Expected Calibration
    Error, 2024). It contains each error under which an estimate this large or this small occurs in
    more than 2.5 % of draws, given gaps in the observed proportions. For the upper bound, gaps
    below a calibrated model's median are raised to it, as a lucky sample is not evidence
    (power-constrained limits: Cowan, Cranmer, Gross, Vitells, 2011).
    """
    gaps, covariance = _gaps(predicted, true)
    seen, chance = float(gaps @ gaps), float(np.trace(covariance))
    variances, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(variances, 0)) @ axes.T
    noise = np.random.default_rng(0).standard_normal((_DRAWS, BINS)) @ root
    squares = (noise**2).sum(1)
    along = 2 * noise @ gaps / max(np.sqrt(seen), 1e-300)

    def bound(level: float, squared: float) -> float:
        """The error under which a share `level` of the draws has smaller squared gaps."""

        def excess(error: float) -> float:
            return float(np.quantile(error * (error + along) + squares, level)) - squared

        if excess(0) >= 0:
            return 0.0
        return float(brentq(excess, 0, 1)) if excess(1) > 0 else 1.0

    return Metric(
        value=float(np.sqrt(max(seen - chance, 0))),
        low=bound(1 - _TAIL, seen),
        high=bound(_TAIL, max(seen, float(np.median(squares)))),
    )


def _gaps(
    predicted: NDArray[np.float32], true: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each bin's gap times the square root of its share `[BINS]`, and their covariance by chance.

    The K predictions for an image may be correlated, so the covariance is that between images. Each
    bin's variance is at least that of calibrated, independent predictions: a bin with few
    predictions that all came true would otherwise seem to have none.
    """
    images, labels = predicted.shape
    place = np.arange(images)[:, None] * BINS + bins(predicted)
    exact = predicted.astype(np.float64)

    def by_image(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(place.ravel(), values.ravel(), images * BINS)
        return np.asarray(sums.reshape(images, BINS), np.float64)

    gaps = by_image((exact - true) / labels)
    shares = by_image(np.full(predicted.shape, 1 / labels)).mean(0)
    calibrated = by_image(exact * (1 - exact) / labels**2).mean(0) / images
    apart = gaps - gaps.mean(0)
    covariance = apart.T @ apart / (max(images - 1, 1) * images)
    covariance += np.diag(np.maximum(calibrated - np.diag(covariance), 0))
    scale = 1 / np.sqrt(np.where(shares > 0, shares, 1))
    return gaps.mean(0) * scale, covariance * np.outer(scale, scale)
