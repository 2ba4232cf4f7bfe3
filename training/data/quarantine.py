"""The list of images to leave out: a CSV with the columns file,reason that `inspect` writes.

A list of suspects or corrections will do too: its images are left out.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from models.bundle import write_atomically
from training.data import corrections, csv_tables

_COLUMNS = ("file", "reason")
_NAMES = "surrogateescape"  # a file's name need not be UTF-8


def read(file: Path) -> dict[str, str]:
    """The reason for each file, relative to the data's root. Raises DataError."""
    forms = (_COLUMNS, corrections.COLUMNS)
    return {
        row["file"]: row.get("reason", "its label is suspect")
        for _, row in csv_tables.read(file, *forms, errors=_NAMES)
    }


def write(file: Path, reasons: Mapping[str, str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(sorted(reasons.items()))
    write_atomically(file, text.getvalue().encode(errors=_NAMES))
