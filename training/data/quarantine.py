"""The list of images to leave out: a CSV with the columns file,reason that `inspect` writes."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from models.bundle import write_atomically
from training.data import csv_tables

_COLUMNS = ("file", "reason")
_NAMES = "surrogateescape"  # a file's name need not be UTF-8


def read(file: Path) -> dict[str, str]:
    """The reason for each file, relative to the data's root. Raises DataError."""
    rows = csv_tables.read(file, _COLUMNS, errors=_NAMES)
    return {row["file"]: row["reason"] for _, row in rows}


def write(file: Path, reasons: Mapping[str, str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(sorted(reasons.items()))
    write_atomically(file, text.getvalue().encode(errors=_NAMES))
