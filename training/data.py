"""Images and their labels, from any of the layouts that DATA can have."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from models.manifest import Task

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class Example:
    """One image: its file below the data's root, its labels, its side of an official split."""

    file: str
    labels: tuple[str, ...]
    is_valid: bool | None = None


@dataclass(frozen=True)
class Dataset:
    """Examples in the order of their file names; `labels` sorted: the order of the scores."""

    root: Path
    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    task: Task


def read(
    data: str, pattern: str | None = None, images: str | None = None, task: Task | None = None
) -> Dataset:
    """The images that `data` names; the arguments are the recipe's.

    Raises DataError, which says what was expected.
    """
    path = Path(data)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder or a CSV file")
    if pattern is not None:
        root, examples = path, list(_from_pattern(path, pattern))
    elif path.is_file():
        try:
            root = Path(images) if images else _images_of_csv(path)
            examples = list(_from_csv(path, root))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is neither a folder nor a CSV file: {error}") from error
    elif (path / "images").is_dir() and (path / "annotations").is_dir():
        root, examples = path / "images", list(_from_oxford_pets(path))
    else:
        root, examples = path, list(_from_class_folders(path))
    if not examples:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    examples.sort(key=lambda example: example.file)
    labels = tuple(sorted({label for example in examples for label in example.labels}))
    several = next((example for example in examples if len(example.labels) != 1), None)
    if task == "single" and several:
        raise DataError(
            f"{several.file} has {len(several.labels)} labels; a single-label task needs exactly"
            " one an image: use --task multi"
        )
    return Dataset(root, tuple(examples), labels, task or ("multi" if several else "single"))


def _from_class_folders(data: Path) -> Iterator[Example]:
    folders = sorted(p for p in data.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(
            f"{data} has no class folders; DATA is a folder of class folders, a folder of images"
            " with --pattern, a CSV, or the Oxford-IIIT Pet folder (images/, annotations/)"
        )
    if {folder.name.lower() for folder in folders} <= _SPLIT_FOLDERS:
        raise DataError(
            f"{data} holds {', '.join(f.name for f in folders)}, which are splits, not labels:"
            " list the images in a CSV with the columns fname,labels,is_valid"
        )
    for folder in folders:
        for file in _images_below(folder):
            yield Example(file.relative_to(data).as_posix(), (folder.name,))


def _from_pattern(data: Path, pattern: str) -> Iterator[Example]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--pattern {pattern!r} is no regular expression: {error}") from error
    if expression.groups < 1:
        raise DataError(f"--pattern {pattern!r} has no group: group 1 is the label")
    for file in _images_below(data):
        match = expression.search(file.name)
        if not match or not match[1]:
            raise DataError(f"{file.name} gives no label with --pattern {pattern!r}")
        yield Example(file.relative_to(data).as_posix(), (match[1],))


def _images_of_csv(file: Path) -> Path:
    with file.open(encoding="utf-8-sig", newline="") as text:
        first = next(csv.DictReader(text), None)
    name = (first or {}).get("fname")
    if not name:
        return file.parent  # `_from_csv` says what is wrong
    folders = [file.parent, file.parent / "images", file.parent / "train"]
    for folder in folders:
        if (folder / name).is_file():
            return folder
    raise DataError(
        f"{file}: {name} is in none of {', '.join(map(str, folders))}; name the folder with"
        " --images"
    )


def _from_csv(file: Path, root: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        columns = set(reader.fieldnames or ())
        if not {"fname", "labels"} <= columns <= {"fname", "labels", "is_valid"}:
            raise DataError(
                f"{file} has the columns {', '.join(reader.fieldnames or ())}; they must be"
                " fname,labels or fname,labels,is_valid"
            )
        seen = set()
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if not row["fname"] or None in row or None in row.values():
                raise DataError(f"{where}: expected {len(columns)} values")
            if row["fname"] in seen:
                raise DataError(f"{where}: {row['fname']} is listed twice")
            seen.add(row["fname"])
            if not (root / row["fname"]).is_file():
                raise DataError(f"{where}: {root / row['fname']} does not exist")
            labels = tuple(sorted(set(row["labels"].split())))
            yield Example(row["fname"], labels, _truth(row.get("is_valid"), where))


def _truth(text: str | None, where: str) -> bool | None:
    if text is None:
        return None
    if text.strip().lower() not in ("true", "false", "1", "0"):
        raise DataError(f"{where}: is_valid={text!r:.40}: use True or False")
    return text.strip().lower() in ("true", "1")


def _from_oxford_pets(data: Path) -> Iterator[Example]:
    for name, is_valid in (("trainval.txt", False), ("test.txt", True)):
        try:
            lines = (data / "annotations" / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{data / 'annotations' / name} cannot be read") from error
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            file = f"{line.split()[0]}.jpg"
            if not (data / "images" / file).is_file():
                raise DataError(f"{name} lists {file}, which is not in {data / 'images'}")
            yield Example(file, (file.rpartition("_")[0],), is_valid)


def _images_below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            yield file
