"""The images that a file lists by name: each checked to be there, once, and to be a file."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import DataError
from training.data.csv_tables import Complain
from training.data.record import Record, Side

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Listing:
    """The records of the images that were added, below `root`; `complain`s of the others."""

    def __init__(self, root: Path, complain: Complain) -> None:
        self._root, self._complain = root, complain
        self._records: dict[str, Record] = {}  # by the file, which a list may spell in several ways

    def add(self, where: str, name: str, labels: Iterable[str], side: Side | None = None) -> None:
        """where: the line that lists the image, for a complaint."""
        file = os.path.abspath(self._root / name)
        if file in self._records:
            self._complain(f"{where}: {name} is listed twice")
        elif is_url(name):
            self._complain(
                f"{where}: {name} is a URL: download the images, and list the files' names"
            )
        elif not (self._root / name).is_file():
            self._complain(f"{where}: {self._root / name} does not exist")
        else:
            self._records[file] = Record(name, tuple(sorted(set(labels))), side)

    @property
    def records(self) -> list[Record]:
        return list(self._records.values())


def is_url(name: str) -> bool:
    return _URL.match(name) is not None


def split_labels(text: str, separator: str | None) -> list[str]:
    """The labels in a cell of a table; separator: None for spaces."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def root_of(file: Path, names: Sequence[str], folders: Sequence[Path]) -> Path:
    """The first of `folders` that has a file of the list, tried name by name.

    file: the list. The first folder if the list names no file. Raises DataError.
    """
    names = [name for name in names if not is_url(name)]
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder
    if names:
        raise DataError(
            f"{file}: {names[0]} is in none of {', '.join(map(str, folders))}; give the folder"
            " with --images"
        )
    return folders[0]
