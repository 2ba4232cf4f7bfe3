"""Golden images: validation images in every unusual encoding a file can have, and their scores.

They verify that the same bytes still give the same probabilities: in the gate of an export, and in
every serving process before it reports that it is ready.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.bundle import Bundle
from models.decision import above, rank
from models.errors import GateError
from models.manifest import GOLDEN_SCORES_FILE, Contract, Manifest, Preprocess
from models.preprocess import TRAINING_FORMATS, decode, load

TOLERANCE_CPU = 1e-4
TOLERANCE_CUDA = 2e-3
_SAMPLES = ("golden/baseline.jpg", "golden/progressive.jpg", "golden/exif-turned.jpg")

Runner = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""


@dataclass(frozen=True)
class Agreement:
    """The largest difference between two sets of scores, and how many decisions of all differ."""

    max_difference: float
    flips: int
    decisions: int


def forms(images: Sequence[bytes]) -> dict[str, bytes]:
    """Re-encode the images, one in each of the unusual encodings: file name -> bytes.

    Takes at least one image, in a format that training reads, and repeats the images in turn.
    Returns one file per encoding, each in a format that is served.
    """
    files = {}
    for number, (name, encode) in enumerate(_FORMS.items()):
        image = load(images[number % len(images)], shorter_px=384, formats=TRAINING_FORMATS)
        image.thumbnail((384, 384))
        files[f"golden/{name}"] = encode(image)
    return files


def scores_file(names: Sequence[str], scores: NDArray[np.float32]) -> bytes:
    """The content of `golden/scores.json`: the scores of each file, float32 `[N, C]`, exactly."""
    table = {name: row.tolist() for name, row in zip(names, scores, strict=True)}
    return json.dumps(table, indent=1).encode()


def samples(bundle: Bundle) -> list[bytes]:
    """The golden images that any photograph could be, for a person to try: up to three JPEGs."""
    return [bundle.files[name] for name in _SAMPLES if name in bundle.files]


def inputs(files: Mapping[str, bytes], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Decode and preprocess the golden files: uint8 `[N, S, S, 3]`."""
    return np.stack([decode(data, preprocess) for data in files.values()])


def check(bundle: Bundle, run: Runner, tolerance: float) -> Agreement:
    """Check that `run` gives the bundle's golden scores, for a batch of all images and for one.

    Raises GateError if a score is off by more than `tolerance` or the scores' shape is wrong.
    """
    return check_files(bundle.files, bundle.manifest, run, tolerance)


def check_files(
    files: Mapping[str, bytes], contract: Contract | Manifest, run: Runner, tolerance: float
) -> Agreement:
    """As `check`, before there is a bundle: `files` has the golden images and their scores."""
    table = json.loads(files[GOLDEN_SCORES_FILE])
    expected = np.array(list(table.values()), np.float32)
    images = inputs({name: files[name] for name in table}, contract.preprocess)
    together = compare(expected, run(images), contract, tolerance)
    alone = compare(expected[:1], run(images[:1]), contract, tolerance)
    worst = max(alone.max_difference, together.max_difference)
    return Agreement(worst, alone.flips + together.flips, alone.decisions + together.decisions)


def compare(
    expected: NDArray[np.float32],
    got: NDArray[np.float32],
    contract: Contract | Manifest,
    tolerance: float,
) -> Agreement:
    """Compare scores `[N, C]`; raises GateError as `check` does.

    A flip is a top label (single-label) or a tag (multi-label) that differs. Within the tolerance
    a flip needs a margin just as small, so flips are counted, not refused.
    """
    if got.shape != expected.shape:
        raise GateError(f"scores have the shape {got.shape}, not {expected.shape}")
    difference = np.abs(got - expected)
    worst = float(difference.max(initial=0.0))
    if not worst <= tolerance:  # also true for NaN
        row, label = np.unravel_index(int(np.argmax(difference)), difference.shape)
        raise GateError(
            f"scores differ by {worst:.2g}, more than {tolerance:.2g}: image {row}, label"
            f" {contract.labels[label]!r}: {got[row, label]:.6f}, not {expected[row, label]:.6f}"
        )
    if contract.thresholds is None:
        flips = rank(expected)[:, 0] != rank(got)[:, 0]
    else:
        flips = above(expected, contract.thresholds) != above(got, contract.thresholds)
    return Agreement(worst, int(flips.sum()), flips.size)


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = image.transpose(Image.Transpose.ROTATE_90)
    return _encoded(rotated, "JPEG", quality=92, exif=exif)


def _transparent(image: Image.Image) -> bytes:
    mask = Image.linear_gradient("L").resize(image.size)
    translucent = image.copy()
    translucent.putalpha(mask)
    return _encoded(translucent, "PNG")


def _sixteen_bit(image: Image.Image) -> bytes:
    samples = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return _encoded(Image.fromarray(samples), "PNG")


_FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "baseline.jpg": lambda image: _encoded(image, "JPEG", quality=92),
    "progressive.jpg": lambda image: _encoded(image, "JPEG", quality=92, progressive=True),
    "exif-turned.jpg": _rotated,
    "cmyk.jpg": lambda image: _encoded(image.convert("CMYK"), "JPEG", quality=92),
    "grey.jpg": lambda image: _encoded(image.convert("L"), "JPEG", quality=92),
    "png-named.jpg": lambda image: _encoded(image, "PNG"),
    "palette.png": lambda image: _encoded(image.quantize(64), "PNG", transparency=0),
    "sixteen-bit.png": _sixteen_bit,
    "transparent.png": _transparent,
    "lossy.webp": lambda image: _encoded(image, "WEBP", quality=90),
}
