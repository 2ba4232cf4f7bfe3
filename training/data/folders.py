"""DATA as a folder of images: class folders, in the folders of an official split or not; a pattern.

A reader calls `complain` for each fault and skips it: `train` stops at the first, `inspect`
collects them all.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import DataError
from training.data import sides
from training.data.csv_tables import Complain
from training.data.record import FORMATS, Record
from training.data.unused import is_of_the_system

SUFFIXES = tuple(FORMATS)


def class_folders(data: Path) -> tuple[list[Record], list[str]]:
    """One folder per label, with all below it; also returns the labels without an image.

    If all folders are named as the parts of a split (train, valid, ...), the class folders are in
    them, and the split is an official one.
    """
    if not _folders(data):
        raise DataError(
            f"{data} has no class folders; DATA is a folder of class folders (or of train/, valid/"
            " or val/, and test/ with class folders), a folder of images with --pattern, a CSV,"
            " lists of files, Hugging Face's metadata.csv or .jsonl (columns file_name and label or"
            " labels) or Parquet, the Oxford-IIIT Pet folder (images/, annotations/) or a PASCAL"
            " VOC folder (JPEGImages/, Annotations/, ImageSets/)"
        )
    folders = [folder for parent in _parents(data) for folder in _folders(parent)]
    if not folders:
        raise DataError(
            f"{data} holds {', '.join(f.name for f in _folders(data))}, which are splits, not"
            " labels, and hold no class folders: make some, or list the images in a CSV with the"
            " columns fname,labels,is_valid"
        )
    records = [
        Record(file.relative_to(data).as_posix(), (folder.name,))
        for folder in folders
        for file in _images_below(folder)
    ]
    having = {label for record in records for label in record.labels}
    empty = sorted({folder.name for folder in folders} - having)
    return sides.by_first_folder(records) if _parents(data) != [data] else records, empty


def strays(data: Path) -> list[str]:
    """Images that lie next to the class folders and so have no label."""
    found = {file for parent in (data, *_parents(data)) for file in parent.iterdir()}
    return sorted(file.relative_to(data).as_posix() for file in found if _is_image(file))


def _parents(data: Path) -> list[Path]:
    """The folders that hold class folders: those of an official split, or `data`."""
    folders = _folders(data)
    return folders if all(sides.is_split(folder.name) for folder in folders) else [data]


def _folders(data: Path) -> list[Path]:
    return sorted(p for p in data.iterdir() if p.is_dir() and not is_of_the_system(p.name))


def pattern(data: Path, expression: str, complain: Complain) -> Iterator[Record]:
    """Images anywhere below a folder; group 1 of the expression on the file's name is the label."""
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise DataError(
            f"--pattern {expression!r} is not a valid regular expression: {error}"
        ) from error
    if compiled.groups < 1:
        raise DataError(f"--pattern {expression!r} has no group: group 1 is the label")
    if not data.is_dir():
        raise DataError(f"{data} is not a folder: --pattern needs a folder of images")
    for file in _images_below(data):
        match = compiled.search(file.name)
        if match and match[1]:
            yield Record(file.relative_to(data).as_posix(), (match[1],))
        else:
            complain(f"--pattern {expression!r} finds no label in {file.name}")


def _images_below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if _is_image(file):
            yield file


def _is_image(file: Path) -> bool:
    mine = not is_of_the_system(file.name)  # which macOS's ._x.jpg, no image, is
    return mine and file.suffix.lower() in SUFFIXES and file.is_file()
