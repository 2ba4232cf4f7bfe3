"""An official split, by the names that its folders, lists or Parquet files have."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from models.errors import DataError
from training.data.record import Record, Side

NAMES: dict[str, Side] = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}


def is_split(name: str) -> bool:
    return name.lower() in NAMES


def by_first_folder(records: Sequence[Record]) -> list[Record]:
    """The records with the sides that the first folders of their files name; see `official`."""
    return official(records, [PurePath(record.file).parts[0] for record in records])


def official(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """The records with the sides that `names`, one for each, stand for.

    Without a side if one of the names is not a split's, or all are the same. Where there is no
    validation, test is that, as in the official splits of Oxford-IIIT Pet and PASCAL VOC. Raises
    DataError if two names stand for one side.
    """
    found = sorted(set(names))
    if len(found) < 2 or not all(map(is_split, found)):
        return list(records)
    sides = {name: NAMES[name.lower()] for name in found}
    for side in ("train", "valid", "test"):
        alike = [name for name in found if sides[name] == side]
        if len(alike) > 1:
            raise DataError(f"{' and '.join(alike)} are the same part of a split: merge them")
    if "valid" not in sides.values():
        sides = {name: "valid" if side == "test" else side for name, side in sides.items()}
    return [replace(r, side=sides[name]) for r, name in zip(records, names, strict=True)]
