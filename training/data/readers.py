"""The layouts that DATA can have: each one's images and labels, as records.

A reader calls `complain` for each fault and skips it: `train` stops at the first, `inspect`
collects them all.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from models.errors import DataError
from training.data import csv_tables
from training.data.csv_tables import Complain
from training.data.record import FORMATS, Record, Side
from training.data.unused import is_of_the_system

SUFFIXES = tuple(FORMATS)
_COLUMNS = ("fname", "labels"), ("fname", "labels", "is_valid")
_SIDES: dict[str, Side] = {"true": "valid", "1": "valid", "false": "train", "0": "train"}
_SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test"}


def class_folders(data: Path) -> tuple[list[Record], list[str]]:
    """One folder per label, with all below it; also returns the labels without an image."""
    folders = sorted(p for p in data.iterdir() if p.is_dir() and not is_of_the_system(p.name))
    if not folders:
        raise DataError(
            f"{data} has no class folders; DATA is a folder of class folders, a folder of images"
            " with --pattern, a CSV, the Oxford-IIIT Pet folder (images/, annotations/) or a"
            " PASCAL VOC folder (JPEGImages/, Annotations/, ImageSets/)"
        )
    if {folder.name.lower() for folder in folders} <= _SPLIT_FOLDERS:
        raise DataError(
            f"{data} holds {', '.join(f.name for f in folders)}, which are splits, not labels:"
            " list the images in a CSV with the columns fname,labels,is_valid"
        )
    files = {folder.name: list(_images_below(folder)) for folder in folders}
    records = [
        Record(file.relative_to(data).as_posix(), (label,))
        for label, found in files.items()
        for file in found
    ]
    return records, [label for label, found in files.items() if not found]


def strays(data: Path) -> list[str]:
    """Images that lie next to the class folders and so have no label."""
    return sorted(file.name for file in data.iterdir() if _is_image(file))


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


def table(file: Path, root: Path, complain: Complain) -> list[Record]:
    """A CSV with the columns fname,labels[,is_valid]; the names are relative to `root`."""
    records: dict[str, Record] = {}
    for where, row in csv_tables.read(file, *_COLUMNS, complain=complain):
        name, is_valid = row["fname"], row.get("is_valid", "").strip().lower()
        if name in records:
            complain(f"{where}: {name} is listed twice")
        elif not (root / name).is_file():
            complain(f"{where}: {root / name} does not exist")
        elif "is_valid" in row and is_valid not in _SIDES:
            complain(f"{where}: is_valid={row['is_valid']!r:.40}: use True or False")
        else:
            labels = tuple(sorted(set(row["labels"].split())))
            records[name] = Record(name, labels, _SIDES.get(is_valid))
    return list(records.values())


def table_root(file: Path, images: str | None) -> Path:
    """The folder that a CSV's names are relative to.

    `images`, if given, or the first of the CSV's own folder and its `images/` and `train/` that
    has a file of the CSV, tried name by name.
    """
    if images:
        return Path(images)
    rows = csv_tables.read(file, *_COLUMNS, complain=lambda _: None)
    names = [row["fname"] for _, row in rows]
    folders = [file.parent, file.parent / "images", file.parent / "train"]
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder
    if names:
        raise DataError(
            f"{file}: {names[0]} is in none of {', '.join(map(str, folders))}; give the folder"
            " with --images"
        )
    return file.parent


def oxford_pets(data: Path, complain: Complain) -> Iterator[Record]:
    """`images/Birman_121.jpg`, `annotations/{trainval,test}.txt`: the breed is in the name."""
    sides: dict[str, Side] = {"trainval": "train", "test": "valid"}
    for listed, side in sides.items():
        for name in _names(data / "annotations" / f"{listed}.txt"):
            file = f"{name}.jpg"
            if (data / "images" / file).is_file():
                yield Record(file, (name.rpartition("_")[0],), side)
            else:
                complain(f"{listed}.txt lists {file}, which is not in {data / 'images'}")


def voc_folder(data: Path) -> Path | None:
    """The PASCAL VOC folder that `data` is or contains, as the archives unpack; None if none."""
    found = [
        folder
        for folder in (data, *sorted(data.glob("VOC2*")), *sorted(data.glob("VOCdevkit/VOC2*")))
        if (folder / "JPEGImages").is_dir() and (folder / "Annotations").is_dir()
    ]
    if len(found) > 1:
        raise DataError(f"{data} contains {', '.join(map(str, found))}: give one of them")
    return found[0] if found else None


def voc(data: Path, complain: Complain) -> Iterator[Record]:
    """PASCAL VOC: the labels are the names of all objects, including the difficult ones.

    Split into trainval and test if there are annotations for test, otherwise into train and val.
    """
    lists = data / "ImageSets" / "Main"
    sides: dict[str, Side] = {"train": "train", "val": "valid"}
    if (lists / "test.txt").is_file() and any(
        (data / "Annotations" / f"{name}.xml").is_file() for name in _names(lists / "test.txt")
    ):
        sides = {"trainval": "train", "test": "valid"}
    for listed, side in sides.items():
        for name in _names(lists / f"{listed}.txt"):
            annotation, file = data / "Annotations" / f"{name}.xml", f"{name}.jpg"
            try:
                objects = ElementTree.parse(annotation).getroot().findall("object")
            except (OSError, ElementTree.ParseError) as error:
                complain(f"{listed}.txt lists {name}, but {annotation} cannot be read: {error}")
                continue
            labels = {(found.findtext("name") or "").strip() for found in objects}
            if "" in labels:
                complain(f"{annotation} has an object without a name")
            elif (data / "JPEGImages" / file).is_file():
                yield Record(file, tuple(sorted(labels)), side)
            else:
                complain(f"{listed}.txt lists {file}, which is not in {data / 'JPEGImages'}")


def _names(file: Path) -> list[str]:
    """The first word of each line; empty lines and lines that start with # are skipped."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read") from error
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def _images_below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if _is_image(file):
            yield file


def _is_image(file: Path) -> bool:
    mine = not is_of_the_system(file.name)  # which macOS's ._x.jpg, no image, is
    return mine and file.suffix.lower() in SUFFIXES and file.is_file()
