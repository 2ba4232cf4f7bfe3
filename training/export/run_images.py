"""The images of a run, verified to be unchanged since training; each file is opened once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import sha256
from models.errors import DataError
from models.manifest import Preprocess
from models.wording import counted
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
    run: Run, data: str | Sequence[str] | None = None, others: Sequence[Preprocess] = ()
) -> RunImages:
    """The run's validation images, preprocessed as in its recipe and as in each of `others`.

    Their files are read from where they were, or from `data`: where each of the run's DATA is now.
    Raises DataError if one is missing or has changed.
    """
    return _read(run, run.split.valid, data, [run.outcome.preprocess, *others], _KEPT)


def training_images(run: Run, data: str | Sequence[str] | None, most: int) -> NDArray[np.uint8]:
    """At most `most` of the run's training images, uint8 `[n, S, S, 3]`. Raises DataError."""
    preprocess = run.outcome.preprocess
    chosen = sorted(run.split.train, key=lambda record: record.sha256)[:most]
    return _read(run, chosen, data, [preprocess], 0).images[preprocess]


def _read(
    run: Run,
    records: Sequence[Record],
    data: str | Sequence[str] | None,
    forms: list[Preprocess],
    kept: int,
) -> RunImages:
    forms = list(dict.fromkeys(forms))
    places = _places(run, data)
    ordered = sorted(records, key=lambda record: record.sha256)
    known = {places(record): record.sha256 for record in ordered}
    keep = {places(record) for record in ordered[:kept]}
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
    return RunImages(ordered, images, [files[places(record)] for record in ordered[:kept]])


def _places(run: Run, data: str | Sequence[str] | None) -> Callable[[Record], Path]:
    """Where a record's file is: below the run's folders, or those of `data` in their place."""
    root = Path(run.outcome.root)
    if data is None:
        return lambda record: root / record.file
    recipe, moved = run.recipe, [data] if isinstance(data, str) else data
    if len(moved) != len(recipe.sources):
        raise DataError(
            f"--data is given {counted(len(moved), 'time')}, and {run.path} has images of"
            f" {recipe.data_name}: give it once for each of them, in this order"
        )
    first, *others = (layouts.find(one, recipe.pattern, recipe.images).root for one in moved)
    # the longest way first: one may lead through another
    ways = sorted(zip(run.outcome.more_roots, others, strict=True), key=lambda way: -len(way[0]))

    def place(record: Record) -> Path:
        for way, now in ways:
            if record.file.startswith(f"{way}/"):
                return now / record.file.removeprefix(f"{way}/")
        return first / record.file

    return place
