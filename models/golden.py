"""Golden images: validation images in every odd form a file can have, and their scores.

Whoever runs a bundle proves on them that bytes still become the same probabilities: the export's
gate, and every serving process before it says that it is ready.
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
from models.preprocess import decode, load

TOLERANCE_CPU = 1e-4
TOLERANCE_CUDA = 2e-3

Runner = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""


@dataclass(frozen=True)
class Agreement:
    """How far two sets of scores are apart, and how many decisions differ."""

    max_difference: float
    flips: int


def forms(pictures: Sequence[bytes]) -> dict[str, bytes]:
    """The pictures re-encoded, each into the next odd form, cyclically: file name -> bytes.

    At least one picture; there are as many files as forms.
    """
    files = {}
    for number, (name, encode) in enumerate(_FORMS.items()):
        picture = load(pictures[number % len(pictures)], shorter_px=384)
        picture.thumbnail((384, 384))
        files[f"golden/{name}"] = encode(picture)
    return files


def scores_file(names: Sequence[str], scores: NDArray[np.float32]) -> bytes:
    """The content of `golden/scores.json`: each file's scores, float32 `[N, C]`, exactly."""
    table = {name: row.tolist() for name, row in zip(names, scores, strict=True)}
    return json.dumps(table, indent=1).encode()


def inputs(files: Mapping[str, bytes], preprocess: Preprocess) -> NDArray[np.uint8]:
    """The golden files through the preprocessing: uint8 `[N, S, S, 3]`."""
    return np.stack([decode(data, preprocess) for data in files.values()])


def check(bundle: Bundle, run: Runner, tolerance: float) -> Agreement:
    """Prove that `run` gives the bundle's golden scores, for all images at once and for one alone.

    Raises GateError if a score is more than `tolerance` off or the answer's shape is wrong.
    """
    return check_files(bundle.files, bundle.manifest, run, tolerance)


def check_files(
    files: Mapping[str, bytes], contract: Contract | Manifest, run: Runner, tolerance: float
) -> Agreement:
    """The same before there is a bundle: the golden images and their scores are among `files`."""
    table = json.loads(files[GOLDEN_SCORES_FILE])
    expected = np.array(list(table.values()), np.float32)
    images = inputs({name: files[name] for name in table}, contract.preprocess)
    together = compare(expected, run(images), contract, tolerance)
    alone = compare(expected[:1], run(images[:1]), contract, tolerance)
    worst = max(alone.max_difference, together.max_difference)
    return Agreement(worst, alone.flips + together.flips)


def compare(
    expected: NDArray[np.float32],
    got: NDArray[np.float32],
    contract: Contract | Manifest,
    tolerance: float,
) -> Agreement:
    """Compare scores `[N, C]`; raises GateError as `check` does.

    Flips are first labels, or labels at their thresholds, that differ. Within the tolerance they
    happen only where the margin is that small, so they are counted and not refused.
    """
    if got.shape != expected.shape:
        raise GateError(f"scores have the shape {got.shape}, not {expected.shape}")
    difference = np.abs(got - expected)
    worst = float(difference.max(initial=0.0))
    if not worst <= tolerance:  # a NaN is not ≤ anything
        row, label = np.unravel_index(int(np.argmax(difference)), difference.shape)
        raise GateError(
            f"scores differ by {worst:.2g}, more than {tolerance:.2g}: image {row}, label"
            f" {contract.labels[label]!r}: {got[row, label]:.6f}, not {expected[row, label]:.6f}"
        )
    if contract.thresholds is None:
        flips = rank(expected)[:, 0] != rank(got)[:, 0]
    else:
        flips = above(expected, contract.thresholds) != above(got, contract.thresholds)
    return Agreement(worst, int(flips.sum()))


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _turned(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    return _encoded(turned, "JPEG", quality=92, exif=exif)


def _transparent(picture: Image.Image) -> bytes:
    mask = Image.linear_gradient("L").resize(picture.size)
    translucent = picture.copy()
    translucent.putalpha(mask)
    return _encoded(translucent, "PNG")


def _sixteen_bit(picture: Image.Image) -> bytes:
    samples = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    return _encoded(Image.fromarray(samples), "PNG")


_FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "baseline.jpg": lambda picture: _encoded(picture, "JPEG", quality=92),
    "progressive.jpg": lambda picture: _encoded(picture, "JPEG", quality=92, progressive=True),
    "exif-turned.jpg": _turned,
    "cmyk.jpg": lambda picture: _encoded(picture.convert("CMYK"), "JPEG", quality=92),
    "grey.jpg": lambda picture: _encoded(picture.convert("L"), "JPEG", quality=92),
    "png-named.jpg": lambda picture: _encoded(picture, "PNG"),
    "palette.png": lambda picture: _encoded(picture.quantize(64), "PNG", transparency=0),
    "sixteen-bit.png": _sixteen_bit,
    "transparent.png": _transparent,
    "lossy.webp": lambda picture: _encoded(picture, "WEBP", quality=90),
}
