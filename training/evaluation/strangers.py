"""Images of anything but a model's labels: how many of them it calls unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import conformal
from models.bundle import sha256
from models.errors import DataError, RunError
from models.wording import counted
from training.data import csv_tables, decoding
from training.data.folders import SUFFIXES
from training.evaluation.scorer import Scorer

STRANGERS_FILE = "strangers.csv"


@dataclass(frozen=True)
class Strangers:
    """files: below the folder. images: as served, uint8 `[N, S, S, 3]`. scores `[N, C]`; p_values
    `[N]`. left_out: how many of the folder's images the model was trained on.
    """

    files: Sequence[str]
    images: NDArray[np.uint8]
    scores: NDArray[np.float32]
    p_values: NDArray[np.float64]
    left_out: int


def see(model: Scorer, folder: Path) -> Strangers:
    """What the model makes of the images in a folder and those below it.

    Raises RunError if the model has no novelty, DataError if there is no image that it was not
    trained on, or one cannot be decoded.
    """
    held_out = model.held_out
    if held_out is None or held_out.novelty is None:
        raise RunError(
            f"{model.name} has no novelty, which --strangers is about: it was trained before there"
            " was one, or on too few images; train it again"
        )
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)

    def served(data: bytes) -> NDArray[np.uint8] | None:
        known = sha256(data) in model.trained_on
        return None if known else decoding.decode(data, model.preprocess)

    decoded = list(decoding.decoded(found, served))
    kept = [row for row, image in enumerate(decoded) if image is not None]
    if not kept:
        raise DataError(f"{folder} has no images that {model.name} was not trained on")
    images = np.stack([image for image in decoded if image is not None])
    outputs = model.answer(images)
    if outputs.novelty is None:
        raise RunError(f"{model.name} has no novelty")
    return Strangers(
        [found[row].relative_to(folder).as_posix() for row in kept],
        images,
        outputs.scores,
        conformal.p_values(outputs.novelty, held_out.novelty),
        len(found) - len(kept),
    )


def write(path: Path, strangers: Strangers) -> None:
    """`strangers.csv`: path, p_value; the least strange first."""
    order = np.argsort(-strangers.p_values, kind="stable").tolist()
    rows = ((strangers.files[row], float(strangers.p_values[row])) for row in order)
    csv_tables.write(path / STRANGERS_FILE, ["path", "p_value"], rows)


def told(strangers: Strangers, share: str, alpha: float) -> str:
    """The line that `evaluate` prints. share: of the strangers that are unknown, with interval."""
    without = f", without {strangers.left_out} that it was trained on" if strangers.left_out else ""
    return (
        f"{counted(len(strangers.files), 'stranger')}{without}: {share} unknown at alpha {alpha:g}"
    )
