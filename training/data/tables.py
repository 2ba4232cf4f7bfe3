"""DATA as a CSV or as lists of files."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from models.errors import DataError
from training.data import csv_tables, listing, sides
from training.data.csv_tables import Complain
from training.data.listing import Listing
from training.data.record import Record, Side

_COLUMNS = ("fname", "labels"), ("fname", "labels", "is_valid")
_SIDES: dict[str, Side] = {"true": "valid", "1": "valid", "false": "train", "0": "train"}


def table(file: Path, root: Path, separator: str | None, complain: Complain) -> list[Record]:
    """A CSV with the columns fname,labels[,is_valid]; the names are relative to `root`."""
    found = Listing(root, complain)
    for where, row in csv_tables.read(file, *_COLUMNS, complain=complain):
        is_valid = row.get("is_valid", "").strip().lower()
        if "is_valid" in row and is_valid not in _SIDES:
            complain(f"{where}: is_valid={row['is_valid']!r:.40}: use True or False")
        else:
            labels = listing.split_labels(row["labels"], separator)
            found.add(where, row["fname"], labels, _SIDES.get(is_valid))
    return found.records


def table_root(file: Path, images: str | None) -> Path:
    """The folder that a CSV's names are relative to.

    `images`, if given, or the first of the CSV's own folder and its `images/` and `train/` that
    has a file of the CSV.
    """
    if images:
        return Path(images)
    rows = csv_tables.read(file, *_COLUMNS, complain=lambda _: None)
    folders = [file.parent, file.parent / "images", file.parent / "train"]
    return listing.root_of(file, [row["fname"] for _, row in rows], folders)


def split_lists(data: Path) -> list[Path]:
    """`train.txt` and `val.txt`, `valid.txt` or `test.txt` of a folder, if it has an official split
    in such lists.
    """
    found = [file for file in sorted(data.glob("*.txt")) if sides.is_split(file.stem)]
    named = {sides.NAMES[file.stem.lower()] for file in found}
    return found if "train" in named and len(named) > 1 else []


def lists(files: Sequence[Path], root: Path, complain: Complain) -> list[Record]:
    """Lists of files, an image a line, with its label after it or else its folder's name as label.

    Several lists are an official split. A name may lack its `.jpg`.
    """
    found = Listing(root, complain)
    splits: dict[str, str] = {}
    for file in files:
        for number, line in _lines(file):
            name, label = _entry(line, root)
            if label or not (root / name).is_file():
                found.add(f"{file}, line {number}", name, [label])
                splits.setdefault(name, file.stem)
            else:
                complain(
                    f"{file}, line {number}: {name} is in no folder that could be its label: add"
                    " the label after the name"
                )
    records = found.records
    return sides.official(records, [splits[record.file] for record in records])


def lists_root(files: Sequence[Path], images: str | None) -> Path:
    """The folder that the names in lists are relative to.

    `images`, if given, or the first of the lists' own folder, the one above, and `images/` in
    either that has a listed file.
    """
    if images:
        return Path(images)
    own = files[0].parent
    folders = [own, own / "images", own.absolute().parent, own.absolute().parent / "images"]
    lines = [line for file in files for _, line in _lines(file)]
    for folder in folders:
        if any((folder / _entry(line, folder)[0]).is_file() for line in lines):
            return folder
    return listing.root_of(files[0], [_entry(line, own)[0] for line in lines], folders)


def _entry(line: str, root: Path) -> tuple[str, str]:
    """The name and the label of a line: the whole line is a name, or all but its last word."""
    front, _, last = line.rpartition("\t" if "\t" in line else " ")
    for name, label in ((line, ""), (front.strip(), last.strip())):
        for file in (name, f"{name}.jpg"):
            if name and (root / file).is_file():
                return file, label or PurePosixPath(file).parent.name
    return line, PurePosixPath(line).parent.name


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without those that are empty or start with #."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of files") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()
