"""How far probabilities are from how often they come true: debiased, with an interval.

The plain (plug-in) calibration error counts its own noise as error: it is above zero for a model
that has none, and larger still on resampled images, so that a bootstrap interval may lie above it.
The square of the L2 error has an unbiased estimate: from each bin's squared gap take what chance
alone adds (Kumar, Liang, Ma, Verified Uncertainty Calibration, NeurIPS 2019, section 4).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from models.manifest import Metric

BINS = 15
_DRAWS = 2_000
_TAIL = 0.025


def bins(predicted: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin, from 0, of each probability; all are equally wide."""
    return np.asarray(np.minimum(predicted * np.float32(BINS), BINS - 1), np.int64)


def measure(predicted: NDArray[np.float32], true: NDArray[np.bool_]) -> Metric:
    """Root mean square calibration error of probabilities `[N, K]`, with its 95 % interval.

    sqrt(Σ share gap²) over the bins; gap: mean probability less the share that came true.

    The interval inverts a test, so it holds for calibrated models too, whose estimate is far from
    normal (Sun, Chaudhari, Barnett, Dobriban, A Confidence Interval for the l2 Expected Calibration
    Error, 2024). It has each error under which an estimate so large or so small is drawn in more
    than 2.5 % of cases, if the bins' gaps have the proportions that were seen. Gaps smaller than
    the median of a calibrated model's count as that: luck is no certainty (power-constrained
    limits: Cowan, Cranmer, Gross, Vitells, 2011).
    """
    gaps, covariance = _gaps(predicted, true)
    seen, chance = float(gaps @ gaps), float(np.trace(covariance))
    variances, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(variances, 0)) @ axes.T
    noise = np.random.default_rng(0).standard_normal((_DRAWS, BINS)) @ root
    squares = (noise**2).sum(1)
    along = 2 * noise @ gaps / max(np.sqrt(seen), 1e-300)

    def bound(level: float, squared: float) -> float:
        """The error under which the share `level` of draws has smaller squared gaps."""

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
    """Each bin's gap times the root of its share `[BINS]`, and the covariance of chance in these.

    The K claims about an image may hang together, so the covariance is one over images. No bin's
    variance is taken for less than that of calibrated, independent claims: a bin of few claims that
    all came true would otherwise seem to have none.
    """
    images, claims = predicted.shape
    place = np.arange(images)[:, None] * BINS + bins(predicted)
    exact = predicted.astype(np.float64)

    def by_image(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(place.ravel(), values.ravel(), images * BINS)
        return np.asarray(sums.reshape(images, BINS), np.float64)

    gaps = by_image((exact - true) / claims)
    shares = by_image(np.full(predicted.shape, 1 / claims)).mean(0)
    calibrated = by_image(exact * (1 - exact) / claims**2).mean(0) / images
    apart = gaps - gaps.mean(0)
    covariance = apart.T @ apart / (max(images - 1, 1) * images)
    covariance += np.diag(np.maximum(calibrated - np.diag(covariance), 0))
    scale = 1 / np.sqrt(np.where(shares > 0, shares, 1))
    return gaps.mean(0) * scale, covariance * np.outer(scale, scale)
