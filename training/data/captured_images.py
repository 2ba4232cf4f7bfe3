"""DATA as the images that the service captured (`models/captured.py`), labelled as it guessed."""

from collections.abc import Iterator
from pathlib import Path

from models import captured
from models.errors import DataError
from models.manifest import Task
from training.data.csv_tables import Complain
from training.data.record import Record
from training.data.unused import is_of_the_system


def folder(data: Path) -> Path | None:
    """The folder of the images of one model, which `data` is or holds; None if it does not.

    Raises DataError if it holds those of several models.
    """
    if is_marked(data):
        return data
    if not data.is_dir():
        return None
    below = sorted(p for p in data.iterdir() if p.is_dir() and not is_of_the_system(p.name))
    if not below or not all(map(is_marked, below)):
        return None
    if len(below) > 1:
        raise DataError(
            f"{data} holds captured images of several models: give one of"
            f" {', '.join(map(str, below))}"
        )
    return below[0]


def is_marked(folder: Path) -> bool:
    return (folder / captured.MARKER_FILE).is_file()


def lists(folder: Path) -> tuple[Path, ...]:
    """The files of the folder that are no images."""
    return (folder / captured.MARKER_FILE, *answers(folder))


def answers(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if captured.is_answer(file.name))


def task(folder: Path) -> Task | None:
    """Of the model; None if nothing was captured yet."""
    for file in answers(folder):
        try:
            return captured.read(file).task
        except (DataError, FileNotFoundError):
            continue
    return None


def read(folder: Path, complain: Complain) -> Iterator[Record]:
    """The images; one that the service removes meanwhile is left out."""
    for file in answers(folder):
        try:
            found = captured.read(file)
        except DataError as error:
            complain(str(error))
        except FileNotFoundError:
            continue
        else:
            if (folder / found.file).is_file():
                labels, guess = tuple(sorted(found.labels)), tuple(found.scores.items())
                yield Record(found.file, labels, guess=guess)
