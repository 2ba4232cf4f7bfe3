"""The layouts that DATA can have: which one it is, where its images are, and how it is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models.errors import DataError
from models.manifest import Task
from training.data import (
    captured_images,
    downloads,
    folders,
    hugging_face,
    parquet,
    public_sets,
    tables,
)
from training.data.csv_tables import Complain
from training.data.record import Record

Read = Callable[[Complain], Iterable[Record]]


@dataclass(frozen=True)
class Layout:
    """DATA, found: where its images are, and how they and their labels are read.

    root: what the files' names are relative to; any_folder: it may be any folder, even a home.
    read: None for class folders. lists: the files that name the images. task: if the layout knows.
    """

    root: Path
    read: Read | None = None
    lists: tuple[Path, ...] = ()
    any_folder: bool = False
    task: Task | None = None


def check_there(data: str) -> None:
    """Raises DataError unless `data` is a path that exists or a set that can be downloaded."""
    if not Path(data).exists() and data not in downloads.NAMES:
        raise DataError(
            f"{data} does not exist: give a folder, a file (.csv, .txt, .jsonl or .parquet),"
            f" {' or '.join(downloads.NAMES)}"
        )


def find(
    data: str,
    pattern: str | None = None,
    images: str | None = None,
    separator: str | None = None,
) -> Layout:
    """The layout of DATA; the arguments are the recipe's, for all but captured images.

    Raises DataError.

    A public data set is downloaded, and Parquet unpacked, if that has not been done.
    """
    check_there(data)
    path = Path(data) if Path(data).exists() else downloads.folder(data)
    if captured := captured_images.folder(path):
        read, task = partial(captured_images.read, captured), captured_images.task(captured)
        return Layout(captured, read, captured_images.lists(captured), task=task)
    if pattern is not None:
        return Layout(path, partial(folders.pattern, path, pattern))
    if path.is_file():
        return _of_file(path, images, separator)
    if public_sets.is_oxford_pets(path):
        return Layout(path / "images", partial(public_sets.oxford_pets, path))
    if voc := public_sets.voc_folder(path):
        return Layout(voc / "JPEGImages", partial(public_sets.voc, voc))
    if listed := hugging_face.metadata(path):
        return _of_metadata(listed, path, separator)
    if packed := parquet.files(path):
        return _of_parquet(packed, path.absolute().name, separator)
    if listed := tables.split_lists(path):
        return _of_lists(listed, images)
    return Layout(path)


def _of_file(path: Path, images: str | None, separator: str | None) -> Layout:
    if path.suffix.lower() == ".parquet":
        return _of_parquet([path], path.stem, separator)
    if path.suffix.lower() == ".txt":
        return _of_lists([path], images)
    if hugging_face.is_metadata(path):
        return _of_metadata([path], path.parent, separator)
    root = tables.table_root(path, images)

    def read(complain: Complain) -> list[Record]:
        return tables.table(path, root, separator, complain)

    return Layout(root, read, (path,), any_folder=True)


def _of_lists(files: Sequence[Path], images: str | None) -> Layout:
    root = tables.lists_root(files, images)
    return Layout(root, partial(tables.lists, files, root), tuple(files), any_folder=True)


def _of_metadata(files: Sequence[Path], root: Path, separator: str | None) -> Layout:
    return Layout(root, partial(hugging_face.read, files, root, separator), tuple(files))


def _of_parquet(files: Sequence[Path], name: str, separator: str | None) -> Layout:
    folder = parquet.unpacked(files, name)
    return _of_metadata([folder / "metadata.jsonl"], folder, separator)
