"""Where the network looked: an image with the evidence for one label and against another."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.evidence import evidence as compared
from training.evaluation.error_analysis import Mistake

_FOR, _AGAINST = (217, 48, 37), (26, 115, 232)  # red, blue
_STRENGTH = 0.65  # opacity of the colour at the strongest position


def evidence(maps: NDArray[np.float32], mistake: Mistake) -> NDArray[np.float32]:
    """Where the evidence for a wrong decision lies: `[h, w]`, from maps `[C, h, w]`.

    As `models.evidence` defines it: for the predicted label and against the true one.
    """
    return compared(maps, mistake.predicted, mistake.true)


def overlay(image: NDArray[np.uint8], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image `[S, S, 3]` in grey, red where the evidence `[h, w]` is for, blue against."""
    strongest = max(float(np.abs(evidence).max()), 1e-6)
    small = Image.fromarray(evidence / strongest)
    size = (image.shape[1], image.shape[0])
    smooth = np.asarray(small.resize(size, Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    colour = np.where(smooth > 0, np.array(_FOR), np.array(_AGAINST))
    weight = _STRENGTH * np.abs(smooth)
    mixed = grey * (1 - weight) + colour * weight
    return np.asarray(mixed.round(), np.uint8)


def of_mistake(
    image: NDArray[np.uint8], maps: NDArray[np.float32], mistake: Mistake
) -> NDArray[np.uint8]:
    """The `overlay` with the `evidence` for a wrong decision."""
    return overlay(image, evidence(maps, mistake))


def jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def base64_of(image: NDArray[np.uint8]) -> str:
    """The image `[S, S, 3]` as a JPEG for a page that needs no other file."""
    return base64.b64encode(jpeg(image)).decode()
