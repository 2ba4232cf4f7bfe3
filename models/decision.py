"""From scores to decisions, shared by serving, evaluation and the gates.

Scores are float32 probabilities in [0, 1], one per label, in the order of the labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import BadParameter, ModelFailed
from models.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Prediction:
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Tag:
    label: str
    probability: float
    threshold: float


def rank(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Label indices `[..., C]` by descending score; equal scores keep the order of the labels."""
    return np.argsort(-scores, kind="stable")


def above(
    scores: NDArray[np.float32], thresholds: Sequence[float] | NDArray[np.float32] | float
) -> NDArray[np.bool_]:
    """Which labels are tags `[..., C]`: score ≥ threshold, compared in float32."""
    return scores >= np.asarray(thresholds, np.float32)


def classify(scores: NDArray[np.float32], manifest: Manifest, top_k: int) -> list[Prediction]:
    """The `top_k` most likely labels of one image, most likely first. scores: `[C]`.

    Raises BadParameter unless 1 ≤ top_k ≤ number of labels.
    """
    check_top_k(top_k, manifest)
    return [Prediction(manifest.labels[i], float(scores[i])) for i in rank(scores)[:top_k]]


def tag(
    scores: NDArray[np.float32], manifest: Manifest, threshold: float | None = None
) -> list[Tag]:
    """The labels of one image, most likely first; there may be none. scores: `[C]`.

    `threshold` replaces every label's own threshold. Raises BadParameter if it is outside [0, 1].
    """
    if manifest.thresholds is None:
        raise ValueError(f"{manifest.name} is single-label: it has no thresholds")
    if threshold is not None:
        check_threshold(threshold)
    thresholds = manifest.thresholds if threshold is None else [threshold] * len(scores)
    tags = above(scores, thresholds)
    return [
        Tag(manifest.labels[i], float(scores[i]), thresholds[i]) for i in rank(scores) if tags[i]
    ]


def check_finite(
    values: NDArray[np.float32] | np.float32,
    manifest: Manifest,
    what: Literal["scores", "maps", "novelty"] = "scores",
) -> None:
    """Raises ModelFailed if a value is NaN or infinite."""
    if not np.isfinite(values).all():
        which = "is not" if what == "novelty" else "are not all"
        raise ModelFailed(f"{manifest.name} failed on this image: its {what} {which} finite")


def check_top_k(top_k: int, manifest: Manifest) -> None:
    """Raises BadParameter unless 1 ≤ top_k ≤ number of labels."""
    if not 1 <= top_k <= len(manifest.labels):
        raise BadParameter(
            f"top_k={top_k}: use 1 to {len(manifest.labels)}, the number of labels of"
            f" {manifest.name}"
        )


def check_threshold(threshold: float) -> None:
    """Raises BadParameter unless 0 ≤ threshold ≤ 1."""
    if not 0 <= threshold <= 1:
        raise BadParameter(f"threshold={threshold}: use a number from 0 to 1")
