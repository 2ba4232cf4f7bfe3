"""DATA as Hugging Face's image folders: images and `metadata.csv` or `metadata.jsonl`.

https://huggingface.co/docs/datasets/image_dataset, "ImageFolder". Names in the column `file_name`
are relative to the file; `label` is one label, `labels` any number; other columns are ignored. The
folders of a split (train/, validation/, test/) may have a file each, or all of them one.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.errors import DataError
from training.data import listing, sides
from training.data.csv_tables import Complain
from training.data.listing import Listing
from training.data.record import Record

FILES = ("metadata.csv", "metadata.jsonl")
_LABELS = {"label", "labels"}
Row = tuple[str, dict[str, Any]]


def is_metadata(file: Path) -> bool:
    return file.name == "metadata.csv" or file.suffix == ".jsonl"


def metadata(data: Path) -> list[Path]:
    """The files with labels in the folder, or else in its folders of a split."""
    folders = [f for f in sorted(data.iterdir()) if f.is_dir() and sides.is_split(f.name)]
    for places in ([data], folders):
        found = [place / name for place in places for name in FILES if (place / name).is_file()]
        if labelled := [file for file in found if _has_labels(file)]:
            return labelled
    return []


def read(
    files: Sequence[Path], root: Path, separator: str | None, complain: Complain
) -> list[Record]:
    """The images of metadata files, which are in `root` or in its folders."""
    found = Listing(root, complain)
    for file in files:
        inside = file.parent.relative_to(root).as_posix()
        for where, row in _rows(file, complain):
            try:
                labels = _labels(row, separator)
            except ValueError as error:
                complain(f"{where}: {error}")
            else:
                name = row["file_name"]
                below = inside != "." and not listing.is_url(name)
                found.add(where, f"{inside}/{name}" if below else name, labels)
    return sides.by_first_folder(found.records)


def _labels(row: dict[str, Any], separator: str | None) -> list[str]:
    """Raises ValueError, with the reason, where `label` or `labels` cannot be used."""
    column = _column(row)
    value = row[column]
    if column == "labels" and isinstance(value, str):
        return listing.split_labels(value, separator)
    several = value if isinstance(value, list) and column == "labels" else [value]
    labels = [] if value is None else [_text(column, one) for one in several]
    if column == "label" and labels in ([], [""]):
        raise ValueError("no label")
    return labels


def _text(column: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{column}={value!r:.40}: use text or a whole number")
    return str(value).strip()


def _column(row: dict[str, Any]) -> str:
    found = sorted(_LABELS & row.keys())
    if len(found) != 1:
        raise ValueError(f"it has {' and '.join(found) or 'neither'}: use label or labels")
    return found[0]


def _has_labels(file: Path) -> bool:
    first = next(_rows(file, lambda _: None), None)
    return first is not None and bool(_LABELS & first[1].keys())


def _rows(file: Path, complain: Complain) -> Iterator[Row]:
    """Each line as its location and its values by column; `file_name` is text that is not empty."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = _csv_rows(text) if file.suffix == ".csv" else _json_rows(text, file, complain)
            for number, row in lines:
                where = f"{file}, line {number}"
                name = row.get("file_name") if isinstance(row, dict) else None
                if isinstance(name, str) and name:
                    yield where, row
                else:
                    complain(f"{where}: it has no file_name")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as {file.suffix[1:].upper()}: {error}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _csv_rows(text: Any) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(text)
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _json_rows(text: Any, file: Path, complain: Complain) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            complain(f"{file}, line {number} is not JSON: {error.msg} at character {error.pos + 1}")
        else:
            yield number, row
