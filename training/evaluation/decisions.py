"""Decisions from scores, as serving makes them; what calibration and drift are measured on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.decision import above, rank
from models.manifest import Baseline, Task

_CONFIDENCE_BINS = 20
_CONFIDENCE_EDGES = tuple((edge + 1) / _CONFIDENCE_BINS for edge in range(_CONFIDENCE_BINS))


def calibration_pairs(
    task: Task, scores: NDArray[np.float32], targets: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What calibration is measured on: probabilities `[N, K]`, and whether each came true.

    Single-label: the likeliest label's (K = 1); multi-label: every label's (K = C).
    """
    if task == "multi":
        return scores, targets
    first = rank(scores)[:, :1]
    return np.take_along_axis(scores, first, 1), np.take_along_axis(targets, first, 1)


def decide(scores: NDArray[np.float32], thresholds: Sequence[float] | None) -> NDArray[np.bool_]:
    """The labels predicted `[N, C]`: those that reach their thresholds, or only the likeliest."""
    if thresholds is not None:
        return above(scores, thresholds)
    return np.eye(scores.shape[1], dtype=np.bool_)[rank(scores)[:, 0]]


def baseline(scores: NDArray[np.float32], predicted: NDArray[np.bool_]) -> Baseline:
    """The reference for drift: how often each label is predicted, and how confidently."""
    bins = np.searchsorted(_CONFIDENCE_EDGES, scores.max(1))
    counts = np.bincount(np.minimum(bins, _CONFIDENCE_BINS - 1), minlength=_CONFIDENCE_BINS)
    return Baseline(
        label_share=tuple(predicted.mean(0).tolist()),
        confidence_edges=_CONFIDENCE_EDGES,
        confidence_counts=tuple(counts.tolist()),
    )
