"""Golden images: validation images in every unusual encoding a file can have, and their scores.

They verify that the same bytes still give the same probabilities: in the gate of an export, and in
every serving process before it reports that it is ready.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.bundle import Bundle
from models.decision import above, rank
from models.errors import GateError
from models.manifest import (
    GOLDEN_NOVELTY_FILE,
    GOLDEN_SCORES_FILE,
    Contract,
    Manifest,
    Preprocess,
)
from models.outputs import Answerer, Outputs
from models.preprocess import TRAINING_FORMATS, decode, load

TOLERANCE_CPU = 1e-4
TOLERANCE_CUDA = 2e-3
NOVELTY_TOLERANCE_CPU = 1e-3  # of a novelty, as a share of it
NOVELTY_TOLERANCE_CUDA = 2e-2
_SAMPLES = ("golden/baseline.jpg", "golden/progressive.jpg", "golden/exif-turned.jpg")

Runner = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""


@dataclass(frozen=True)
class Agreement:
    """The largest difference between two sets of scores, and how many decisions of all differ.

    novelty_difference: the largest one of a novelty, as a share of it; None if there is none.
    """

    max_difference: float
    flips: int
    decisions: int
    novelty_difference: float | None = None


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


def outputs_files(names: Sequence[str], outputs: Outputs) -> dict[str, bytes]:
    """`golden/scores.json` and, if there is novelty, `golden/novelty.json`: the outputs of each
    file, exactly.
    """
    files = {GOLDEN_SCORES_FILE: scores_file(names, outputs.scores)}
    if outputs.novelty is not None:
        table = dict(zip(names, outputs.novelty.tolist(), strict=True))
        files[GOLDEN_NOVELTY_FILE] = json.dumps(table, indent=1).encode()
    return files


def samples(bundle: Bundle) -> list[bytes]:
    """The golden images that any photograph could be, for a person to try: up to three JPEGs."""
    return [bundle.files[name] for name in _SAMPLES if name in bundle.files]


def inputs(files: Mapping[str, bytes], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Decode and preprocess the golden files: uint8 `[N, S, S, 3]`."""
    return np.stack([decode(data, preprocess) for data in files.values()])


def check(
    bundle: Bundle, answer: Answerer, tolerance: float, novelty_tolerance: float | None = None
) -> Agreement:
    """Check that `answer` gives the bundle's golden outputs, for a batch of all images and for one.

    novelty_tolerance: None if there is no novelty. Raises GateError if a score is off by more than
    `tolerance`, a novelty by more than that share of it, or the shape of either is wrong.
    """
    return check_files(bundle.files, bundle.manifest, answer, tolerance, novelty_tolerance)


def check_files(
    files: Mapping[str, bytes],
    contract: Contract | Manifest,
    answer: Answerer,
    tolerance: float,
    novelty_tolerance: float | None = None,
) -> Agreement:
    """As `check`, before there is a bundle: `files` has the golden images and their outputs."""
    table = json.loads(files[GOLDEN_SCORES_FILE])
    scores = np.array(list(table.values()), np.float32)
    novelty = None
    if novelty_tolerance is not None:
        novelties = json.loads(files[GOLDEN_NOVELTY_FILE])
        novelty = np.array([novelties[name] for name in table], np.float32)
    expected = Outputs(scores, novelty)
    images = inputs({name: files[name] for name in table}, contract.preprocess)
    together, alone = (
        _compare(
            expected.first(count), answer(images[:count]), contract, tolerance, novelty_tolerance
        )
        for count in (len(images), 1)
    )
    differences = (together.novelty_difference, alone.novelty_difference)
    return Agreement(
        max(alone.max_difference, together.max_difference),
        alone.flips + together.flips,
        alone.decisions + together.decisions,
        max((each for each in differences if each is not None), default=None),
    )


def _compare(
    expected: Outputs,
    got: Outputs,
    contract: Contract | Manifest,
    tolerance: float,
    novelty_tolerance: float | None,
) -> Agreement:
    found = compare(expected.scores, got.scores, contract, tolerance)
    if expected.novelty is None or novelty_tolerance is None:
        return found
    difference = compare_novelty(expected.novelty, got.novelty, novelty_tolerance)
    return replace(found, novelty_difference=difference)


def compare_novelty(
    expected: NDArray[np.float32], got: NDArray[np.float32] | None, tolerance: float
) -> float:
    """The largest difference of novelties `[N]`, as a share of the expected one.

    Raises GateError if it is above the tolerance, or the shape is wrong.
    """
    if got is None or got.shape != expected.shape:
        raise GateError(
            f"novelty has the shape {None if got is None else got.shape}, not {expected.shape}"
        )
    shares = np.abs(got - expected) / np.maximum(expected, np.finfo(np.float32).tiny)
    worst = float(shares.max(initial=0.0))
    if not worst <= tolerance:  # also true for NaN
        row = int(np.argmax(shares))
        raise GateError(
            f"novelty differs by {worst:.2g} of it, more than {tolerance:.2g}: image {row}:"
            f" {got[row]:.6g}, not {expected[row]:.6g}"
        )
    return worst


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
