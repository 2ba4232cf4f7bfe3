"""The folders of Oxford-IIIT Pet and PASCAL VOC, with their own labels and splits."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from models.errors import DataError
from training.data.csv_tables import Complain
from training.data.record import Record, Side


def is_oxford_pets(data: Path) -> bool:
    """By its list too: many sets have images/ and annotations/."""
    return (data / "images").is_dir() and (data / "annotations" / "trainval.txt").is_file()


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
    """The first words of the lines, each once; empty lines and those that start with # are skipped.

    What is listed twice has the same label each time: it is in the name or in the annotation.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read") from error
    used = (line for line in lines if line.strip() and not line.startswith("#"))
    return list(dict.fromkeys(line.split()[0] for line in used))
