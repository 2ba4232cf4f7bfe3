"""The list of images to leave out: a CSV with the columns file,reason that `inspect` writes.

A list of suspects or corrections will do too: its images are left out.
"""

from collections.abc import Mapping
from pathlib import Path

from training.data import corrections, csv_tables

_COLUMNS = ("file", "reason")


def read(file: Path) -> dict[str, str]:
    """The reason for each file, relative to the data's root. Raises DataError."""
    forms = (_COLUMNS, corrections.COLUMNS[:3], corrections.COLUMNS)
    return {
        row["file"]: row.get("reason", "its label is suspect")
        for _, row in csv_tables.read(file, *forms, errors=csv_tables.FILE_NAMES)
    }


def write(file: Path, reasons: Mapping[str, str]) -> None:
    csv_tables.write(file, _COLUMNS, sorted(reasons.items()))
