"""Sets of labels that contain the right one with a promised probability (single-label).

Adaptive prediction sets (Romano, Sesia and Candès, 2020) without their random draw: labels are
taken from the likeliest on until those taken have enough probability. How much is enough is found
on held-out images, by split conformal prediction. A label is in the set if those ranked before it
do not have enough yet, so the likeliest always is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.conformal import HeldOut
from models.decision import rank
from models.errors import BadParameter
from models.manifest import Manifest


def masses(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability of the labels ranked before each label `[..., C]`: 0 for the likeliest.

    scores: `[..., C]`. Sums are of float64, in the order of the ranks: the same wherever they are
    compared with `enough`.
    """
    order = rank(scores)
    found = np.empty(scores.shape)
    np.put_along_axis(found, order, _before(scores, order), -1)
    return found


def mass_before(scores: NDArray[np.float32], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """`masses` of each image's right label: `[N]`. scores: `[N, C]`; labels: indices `[N]`."""
    return np.asarray(masses(scores)[np.arange(len(scores)), labels])


def enough(masses: NDArray[np.float64], coverage: float) -> float:
    """The mass that is enough for a coverage: the ⌈(n + 1) coverage⌉-th smallest of `[n]` masses.

    masses: `mass_before` of held-out images, ascending. Infinite, for a set of all labels, where
    there are too few.
    """
    place = math.ceil((len(masses) + 1) * coverage - 1e-9)  # 0.07 * 100 is above 7
    return math.inf if place > len(masses) else float(masses[max(place, 1) - 1])


def label_set(scores: NDArray[np.float32], coverage: float, held_out: HeldOut) -> list[int]:
    """The labels of one image's set, indices, likeliest first. scores: `[C]`."""
    if held_out.mass_before is None:
        raise ValueError("sets of labels are for single-label models")
    order = rank(scores)
    size = np.searchsorted(_before(scores, order), enough(held_out.mass_before, coverage), "right")
    labels: list[int] = order[:size].tolist()
    return labels


def most_coverage(images: int) -> float:
    """The largest coverage that so many held-out images can promise by fewer than all labels."""
    return images / (images + 1)


def check_coverage(coverage: float, manifest: Manifest) -> None:
    """Raises BadParameter unless the model has sets, and enough held-out images for this one.

    With too few of them a set would have all labels, whatever the image.
    """
    if manifest.conformal is None or manifest.task == "multi":
        raise BadParameter(
            f"coverage={coverage}: {manifest.name}:{manifest.version} has no sets of labels"
        )
    if not 0 < coverage < 1:
        raise BadParameter(f"coverage={coverage}: use a number between 0 and 1, such as 0.9")
    images = manifest.conformal.images
    if coverage > most_coverage(images):
        most = math.floor(1e4 * most_coverage(images)) / 1e4  # rounded up it would be refused too
        raise BadParameter(
            f"coverage={coverage}: use at most {most}, which {images:,} held-out images can promise"
        )


def _before(scores: NDArray[np.float32], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """The probability of the labels ranked before each place `[..., C]`, in float64."""
    ranked = np.take_along_axis(scores, order, -1).astype(np.float64)
    masses = np.zeros_like(ranked)
    masses[..., 1:] = np.cumsum(ranked, -1)[..., :-1]
    return masses
