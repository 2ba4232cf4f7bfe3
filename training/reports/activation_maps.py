"""Where the network looked: a picture with what spoke for one label and against another."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.error_analysis import Mistake

_FOR, _AGAINST = (217, 48, 37), (26, 115, 232)  # red, blue
_STRENGTH = 0.65  # how much of the picture the strongest place covers


def evidence(maps: NDArray[np.float32], mistake: Mistake) -> NDArray[np.float32]:
    """Where the decision comes from: `[h, w]`, above 0 where most speaks for it, below 0 least.

    maps: logits `[C, h, w]`. What counts is the difference of the two labels' logits, or one
    label's own logit (its sign turned where the label should have been predicted), compared with
    its mean over the positions: of a clear mistake every position is for it.
    """
    zeros = np.zeros_like(maps[0])
    spoke_for = zeros if mistake.predicted is None else maps[mistake.predicted]
    spoke_against = zeros if mistake.true is None else maps[mistake.true]
    found = spoke_for - spoke_against
    return np.asarray(found - found.mean())


def overlay(picture: NDArray[np.uint8], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture `[S, S, 3]` in grey, red where the evidence `[h, w]` is for, blue against."""
    strongest = max(float(np.abs(evidence).max()), 1e-6)
    small = Image.fromarray(evidence / strongest)
    size = (picture.shape[1], picture.shape[0])
    smooth = np.asarray(small.resize(size, Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float32)[..., None]
    colour = np.where(smooth > 0, np.array(_FOR), np.array(_AGAINST))
    weight = _STRENGTH * np.abs(smooth)
    mixed = grey * (1 - weight) + colour * weight
    return np.asarray(mixed.round(), np.uint8)


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
