"""The images of a run, verified to be unchanged since training; each file is opened once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import sha256
from models.errors import DataError
from models.manifest import Preprocess
from training.data import decoding, layouts
from training.data.record import Record
from training.run_folder import Run

_KEPT = 5  # files whose bytes the golden images are made from


@dataclass(frozen=True)
class RunImages:
    """Records in the order of their hashes; their images in each preprocessing, uint8
    `[N, S, S, 3]`; the bytes of the first files.
    """

    records: Sequence[Record]
    images: dict[Preprocess, NDArray[np.uint8]]
    files: Sequence[bytes]


def validation_images(
    run: Run, data: str | None = None, others: Sequence[Preprocess] = ()
) -> RunImages:
    """The run's validation images, preprocessed as in its recipe and as in each of `others`.

    Their files are read from where they were, or below the root of `data`. Raises DataError if one
    is missing or has changed.
    """
    return _read(run, run.split.valid, data, [run.outcome.preprocess, *others], _KEPT)


def images_of(
    run: Run, records: Sequence[Record], data: str | None, forms: Sequence[Preprocess]
) -> RunImages:
    """These of the run's images, in each of the preprocessings `forms`. Raises DataError."""
    return _read(run, records, data, list(forms), 0)


def training_images(run: Run, data: str | None, most: int) -> NDArray[np.uint8]:
    """At most `most` of the run's training images, uint8 `[n, S, S, 3]`. Raises DataError."""
    preprocess = run.outcome.preprocess
    chosen = sorted(run.split.train, key=lambda record: record.sha256)[:most]
    return _read(run, chosen, data, [preprocess], 0).images[preprocess]


def _read(
    run: Run, records: Sequence[Record], data: str | None, forms: list[Preprocess], kept: int
) -> RunImages:
    recipe, forms = run.recipe, list(dict.fromkeys(forms))
    root = Path(run.outcome.root)
    if data is not None:
        root = layouts.find(data, recipe.pattern, recipe.images).root
    ordered = sorted(records, key=lambda record: record.sha256)
    known = {root / record.file: record.sha256 for record in ordered}
    keep = {root / record.file for record in ordered[:kept]}
    files: dict[Path, bytes] = {}

    def unchanged(file: Path) -> bytes:
        content = file.read_bytes() if file.is_file() else b""
        if sha256(content) != known[file]:
            raise DataError("is missing or has changed since training; give its folder with --data")
        if file in keep:
            files[file] = content
        return content

    def prepared(content: bytes) -> list[NDArray[np.uint8]]:
        return [decoding.decode(content, preprocess) for preprocess in forms]

    decoded = list(decoding.decoded(list(known), prepared, unchanged))
    images = {form: np.stack([every[n] for every in decoded]) for n, form in enumerate(forms)}
    return RunImages(ordered, images, [files[root / record.file] for record in ordered[:kept]])
