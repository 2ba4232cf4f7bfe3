"""Labels as people spell them: renaming, merging, and finding those that look alike."""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import DataError
from models.wording import some
from training.data import csv_tables


def read_relabel(file: Path, labels: Iterable[str]) -> dict[str, str]:
    """The new name of each label in a CSV with the columns from,to.

    All are renamed at once: with a,b and b,c an image of a becomes one of b. Raises DataError if
    a line is invalid or its `from` is not one of `labels`.
    """
    known = sorted(set(labels))
    names: dict[str, str] = {}
    for where, row in csv_tables.read(file, ("from", "to")):
        old, new = row["from"], row["to"]
        if not new.strip():
            raise DataError(f"{where}: {old!r} has no new name in the column to")
        if old in names:
            raise DataError(f"{where}: {old!r} is listed twice")
        if old not in known:
            raise DataError(
                f"{where}: no image has the label {old!r}; valid: {nearest(old, known)}"
            )
        names[old] = new
    return names


def nearest(label: str, known: Sequence[str]) -> str:
    """The known labels for a message, those that are spelt alike first."""
    close = difflib.get_close_matches(label, known, 3)
    return some([*close, *(other for other in known if other not in close)], 40)


def spellings(labels: Iterable[str]) -> list[list[str]]:
    """Labels that differ only by case, spaces or the form of a character in Unicode."""
    alike = defaultdict(list)
    for label in sorted(labels):
        folded = unicodedata.normalize("NFKC", label).casefold()
        alike["".join(folded.split())].append(label)
    return [several for several in alike.values() if len(several) > 1]
